"""Without torch the command restores as with it: same files, same options, results within one step of 255."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import REPOSITORY

from amd_restore.apps.cli import main

WITHOUT = """
import json, runpy, sys
for name in ("torch", "diffusers", "torchvision", "onnx", "openvino", "yaml", "basicsr"):
    sys.modules[name] = None
"""
# Runs commands one after the other in a process in which these packages cannot be imported.
SCRIPT = f"""{WITHOUT}
from amd_restore.apps.cli import main
codes = [main(arguments) for arguments in json.loads(sys.argv[1])]
print(json.dumps(codes))
"""
CASES = {
    "plain": [],
    "steps": ["--model", "x4-classical-tiny", "--steps", "4", "--seed", "3", "--tile", "16"],
    "fidelity": ["--fidelity", "0.5"],
    "tta": ["--model", "x4-classical-tiny", "--tta"],
    "consistency": ["--model", "x4-classical-tiny", "--consistency", "--color-fix", "wavelet"],
    "adain": ["--model", "x4-classical-tiny", "--color-fix", "adain", "--uncertainty", "--n-samples", "2"],
    "batch": ["--model", "x4-classical-tiny", "--batch", "3", "-s", "2"],
}


def run(commands: list[list[str]], folder: Path) -> tuple[list[int], str]:
    """Exit codes of commands without torch, and what they said on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of each kind: colour, gray, with alpha, and of 16 bits."""
    root = tmp_path_factory.mktemp("without_torch")
    (root / "in").mkdir()
    photograph = Image.open(REPOSITORY / "lowres" / "kingfisher.png").convert("RGB")
    for i in range(2):
        photograph.crop((40 * i, 30, 40 * i + 37, 55)).save(root / "in" / f"{i}.png")
    gray = photograph.convert("L").crop((0, 0, 20, 9))
    gray.save(root / "in" / "gray.png")
    Image.fromarray(np.asarray(gray).astype(np.uint16) * 257).save(root / "in" / "deep.png")
    clear = photograph.crop((60, 60, 80, 78))
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(root / "in" / "alpha.png")
    return root


def test_results_are_those_of_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    commands = [["-i", "in", "-o", f"without/{name}", *options] for name, options in CASES.items()]
    assert run(commands, folder)[0] == [0] * len(CASES)
    for name, options in CASES.items():
        machine = ["--backend", "torch", "--device", "cpu", "--dtype", "fp32"]
        assert main(["-i", "in", "-o", f"with/{name}", *options, *machine]) == 0
        files = {path.name for path in Path("with", name).iterdir()}
        assert files == {path.name for path in Path("without", name).iterdir()} and len(files) >= 5
        for file in files:
            expected, found = (np.asarray(Image.open(Path(kind, name, file))) for kind in ("with", "without"))
            step = 257 if expected.dtype.itemsize > 1 else 1
            assert expected.shape == found.shape and expected.dtype == found.dtype
            # Colours of the map turn quickly; everything else is a picture.
            allowed = 8 if "uncertainty" in file else step
            assert np.abs(expected.astype(int) - found.astype(int)).max() <= allowed, f"{name}: {file}"


def test_what_needs_torch_says_so(folder: Path) -> None:
    plain = ["-i", "in", "-o", "refused"]
    commands = {
        "device 'cuda' needs torch: pip install 'amd-restore[torch]'; or use cpu": [*plain, "--device", "cuda"],
        "backend torch is not installed; pip install 'amd-restore[torch]'": [*plain, "--backend", "torch"],
        "amd-restore release: this needs torch: pip install 'amd-restore[torch]'": ["release"],
    }
    codes, said = run(list(commands.values()), folder)
    assert codes == [2] * len(commands)
    assert said.splitlines() == list(commands)


def test_doctor_checks_what_is_there(folder: Path) -> None:
    codes, said = run([["doctor", "--json", "doctor.json", "--threads", "1"]], folder)
    record = json.loads((folder / "doctor.json").read_text(encoding="utf-8"))
    assert codes == [0] and said == ""
    assert [(one["device"], one["backend"], one["dtype"], one["fault"]) for one in record["checks"]] == [
        ("cpu", "onnx", "fp32", None),
        ("cpu", "onnx", "int8", None),
    ]
    assert record["chosen"] == {"auto": {"device": "cpu", "backend": "onnx", "dtype": "fp32"}}
    assert record["reference"] == "onnx" and "torch" not in record["devices"]


def test_graphs_are_exported_without_torch(folder: Path) -> None:
    assert run([["export", "--model", "x4-classical-tiny", "--dtype", "int8", "-o", "tiny.onnx"]], folder)[0] == [0]
    assert (folder / "tiny.onnx").stat().st_size > 300_000


def test_python_programs_restore_arrays(folder: Path) -> None:
    script = """
import sys
sys.modules["torch"] = None
import numpy as np
from amd_restore import RestorationPipeline
pipeline = RestorationPipeline.from_pretrained("x4-classical-tiny")
lq = np.random.default_rng(0).random((2, 3, 9, 13), np.float32)
sr = pipeline(lq, seed=[5, 6])
assert sr.shape == (2, 3, 36, 52) and sr.dtype == np.float32
assert np.abs(sr[1:] - pipeline(lq[1:], seed=6)).max() < 1e-5
"""
    subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=True)


def test_training_names_its_extra(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    for script in ("train", "test"):
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / f"amd_restore/{script}.py"), "-opt", "any.yml"],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert done.stderr == "error: this needs torch: pip install 'amd-restore[train]'\n"


@pytest.mark.parametrize(
    "program",
    [
        *("benchmark", "benchmark.ablation", "benchmark.panel", "report", "options", "backends.calibration"),
        *("datasets/make_real_world_set.py", "datasets/make_severity_sets.py", "web/make_models.py"),
    ],
)
def test_programs_of_the_repository_name_their_extra(program: str, tmp_path: Path) -> None:
    path = REPOSITORY / program
    run_it = f"run_path({str(path)!r}" if path.suffix == ".py" else f"run_module('amd_restore.{program}'"
    script = f"{WITHOUT}sys.path.append({str(path.parent)!r})\nrunpy.{run_it}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", script, *["--pictures", "lowres"] * (program == "backends.calibration")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"error: this needs (torch|yaml|basicsr): pip install 'amd-restore\[(torch|train)\]'\n", done.stderr
    )
