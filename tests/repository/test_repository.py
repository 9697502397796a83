"""What must hold for the repository as a whole: sizes, headers, documents that stay true."""

from __future__ import annotations

import ast
import fnmatch
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from places import REPOSITORY
from tiny_model import save_tiny
from training_setup import TINY_NETWORK, StartWeights, build_model, load_miniature

from amd_restore import __version__
from amd_restore.diffusion import SAMPLERS
from amd_restore.errors import AMDRestoreError
from amd_restore.options import OptionFile, load_options
from amd_restore.pipeline import RestorationPipeline
from amd_restore.registry import ARCH_REGISTRY, register_all
from amd_restore.rewards import build_rewards
from amd_restore.weights import load_checkpoint

CODE = {".py", ".sh", ".yml", ".yaml", ".toml"}
TEXT = CODE | {".md", ".txt", ".tsv", ".json", ".cfg", ""}
IGNORED = [line.strip().rstrip("/") for line in (REPOSITORY / ".gitignore").read_text().splitlines() if line.strip()]
BASES = sorted((REPOSITORY / "options" / "base").glob("*.yml"))  # for others to build on, not to be run
OPTION_FILES = sorted({*(REPOSITORY / "options").rglob("*.yml")} - {*BASES})


def repository_files(folder: Path = REPOSITORY) -> Iterator[Path]:
    """Files that are or would be committed."""
    for path in sorted(folder.iterdir()):
        names = (path.name, relative(path), f"/{relative(path)}")
        if path.name == ".git" or any(fnmatch.fnmatch(name, pattern) for name in names for pattern in IGNORED):
            continue
        if path.is_dir():
            yield from repository_files(path)
        else:
            yield path


def relative(path: Path) -> str:
    """Name of a file in test ids and messages."""
    return str(path.relative_to(REPOSITORY))


def test_classes_are_of_a_size_that_one_can_hold() -> None:
    found = {}
    for path in sorted((REPOSITORY / "amd_restore").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                methods = sum(isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) for part in node.body)
                found[f"{path.name}: {node.name}"] = ((node.end_lineno or 0) - node.lineno + 1, methods)
    assert len(found) > 100
    assert {name: size for name, size in found.items() if size[0] > 250 or size[1] > 20} == {}


def test_no_code_file_has_two_jobs() -> None:
    lengths = {relative(p): len(p.read_text().splitlines()) for p in repository_files() if p.suffix in CODE}
    assert len(lengths) > 30
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_the_home_folder_is_looked_up_in_one_place() -> None:
    # Path's own functions fail where there is none.
    for path in (REPOSITORY / "amd_restore").rglob("*.py"):
        assert not re.search(r"\.expanduser\(\)|Path\.home\(", path.read_text(encoding="utf-8")), path


def test_no_path_of_somebodys_machine() -> None:
    # Spelt so that this file does not contain what it looks for.
    private = re.compile("|".join(f"{slash}{name}{slash}" for slash in "/" for name in ("work", "root", "home", "mnt")))
    found = [
        f"{relative(path)}: {line.strip()}"
        for path in repository_files()
        if path.suffix in TEXT
        for line in path.read_text(encoding="utf-8").splitlines()
        if private.search(line) or ("../sh" + "ared" in line and relative(path) != ".ci/run")
    ]
    assert found == []


@pytest.mark.parametrize("file", OPTION_FILES, ids=relative)
def test_option_file_says_command_cost_and_numbers(file: Path) -> None:
    header = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        header.append(line)
    text = "\n".join(header)
    for word in ("Command:", "Cost:", "Numbers:"):
        said = re.search(rf"# {word} +(\S.*)", text)
        assert said, f"no '# {word}' in the header"
        assert not re.search(r"\b(TBD|TODO)\b", said[1]), f"{word} is not filled in"
    assert relative(file) in text, "the command is for another file"


@pytest.mark.parametrize("file", OPTION_FILES, ids=relative)
def test_option_file_is_valid(file: Path) -> None:
    if file.parent.name in ("train", "test"):
        assert load_options(file)["name"].endswith(file.stem)
    else:
        assert file.parent.name in ("benchmark", "ablation")


@pytest.mark.parametrize("file", [file for file in OPTION_FILES if file.parent.name in ("train", "test")], ids=relative)
def test_networks_are_those_of_the_weights_they_load(file: Path) -> None:
    """Shipped weights only; others are made by the stages before."""
    content = OptionFile.read(file).content
    for key, name in content.get("path", {}).items():
        path = REPOSITORY / str(name)
        if key.startswith("pretrain_network_") and path.suffix == ".safetensors" and path.is_file():
            network = content[key.removeprefix("pretrain_")]
            assert network.items() <= load_checkpoint(path)[0].network.items()


def test_every_base_is_built_on_and_says_so() -> None:
    used = {Path(name.split(" ")[0]).resolve() for file in OPTION_FILES for name, _ in OptionFile.read(file).layers}
    assert {*BASES} <= used
    assert all(re.match(r"# (What all|On top of)", file.read_text()) for file in BASES)


def test_changelog_has_the_shape_of_keep_a_changelog() -> None:
    lines = (REPOSITORY / "CHANGELOG.md").read_text().splitlines()
    assert lines[0] == "# Changelog"
    versions = [line for line in lines if line.startswith("## ")]
    released = [re.fullmatch(r"## \[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d", line) for line in versions[1:]]
    assert versions[0] == "## [Unreleased]" and all(released)
    numbers = [tuple(map(int, match.groups())) for match in released if match]
    assert numbers == sorted(numbers, reverse=True)
    assert all(number <= tuple(map(int, __version__.split("."))) for number in numbers)
    kinds = {line for line in lines if line.startswith("### ")}
    allowed = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Numbers changed")
    assert kinds <= {f"### {kind}" for kind in allowed}


# ---- README -------------------------------------------------------------------------------------------------------


def readme_command(name: str) -> str:
    """The one-line command in the code block after ``<!-- command:NAME -->``."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = re.search(rf"<!-- command:{name} -->\n+```\w*\n(.+?)\n```", text, re.DOTALL)
    assert block, f"README.md has no code block after <!-- command:{name} -->"
    assert "\n" not in block[1], "one command, one line"
    return block[1]


def test_readme_test_command_is_what_ci_runs() -> None:
    command = readme_command("tests")
    assert command.endswith("tests/check.sh")
    for words in ("-m venv .venv", "PIP_CONSTRAINT=constraints.txt", ".[dev]"):
        assert words in command


def test_built_basicsr_is_the_one_described_and_the_one_that_pip_takes() -> None:
    (wheel,) = (REPOSITORY / "third_party").glob("*.whl")
    described = (REPOSITORY / "third_party" / "README.md").read_text(encoding="utf-8")
    assert wheel.name in described and hashlib.sha256(wheel.read_bytes()).hexdigest() in described
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert "--find-links third_party" in pins
    assert "==".join(wheel.name.split("-")[:2]) in pins


def test_readme_restore_command(tmp_path: Path) -> None:
    *install, run = readme_command("restore").split(" && ")
    assert any("PIP_CONSTRAINT=constraints.txt" in step and "install ." in step for step in install)
    program, script, *arguments = run.split()
    assert (program, script) == (".venv/bin/python", "inference.py") and "lowres/" in arguments
    inputs = [p for p in (REPOSITORY / "lowres").iterdir() if p.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"}]
    (tmp_path / "lowres").mkdir()  # so that results/ does not land in the repository
    for path in inputs:  # a corner of each: whole ones take as many seconds as there are
        with Image.open(path) as image:
            image.crop((0, 0, 48, 48)).save(tmp_path / "lowres" / path.name)
    done = subprocess.run(
        [sys.executable, REPOSITORY / script, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    outputs = {p.stem for p in tmp_path.rglob("*.*g") if "lowres" not in p.parts}
    assert len(inputs) >= 8 and all(any(p.stem in output for output in outputs) for p in inputs)


# ---- CONTRIBUTING -------------------------------------------------------------------------------------------------


def run_recipe(title: str) -> dict[str, Any]:
    """Run the code block of a recipe in CONTRIBUTING.md; its names."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split(f"### {title}\n")[1].split("\n### ")[0]
    blocks = re.findall(r"```python\n(.+?)```", section, re.DOTALL)
    assert len(blocks) == 1
    assert len([line for line in blocks[0].splitlines() if line.strip()]) <= 10, "a recipe has at most ten lines"
    names: dict[str, Any] = {"__name__": f"recipe_{title.split()[-1]}"}
    exec(compile(blocks[0], title, "exec"), names)
    return names


def test_recipe_architecture() -> None:
    register_all()
    run_recipe("An architecture")
    net = ARCH_REGISTRY.get("GELUDenoiser")(num_feat=8, num_block=1)
    x_t, t = torch.randn(2, 48, 4, 5), torch.tensor([0.5, 1.0])
    assert net(x_t, t, torch.randn(2, 3, 4, 5), torch.tensor([True, False])).shape == x_t.shape
    assert net(x_t, t, None).shape == x_t.shape
    assert any(isinstance(module, torch.nn.GELU) for module in net.modules())


def test_recipe_loss(tmp_path: Path, assets: Path) -> None:
    run_recipe("A loss")
    start = StartWeights(tmp_path).of(TINY_NETWORK)
    options = load_miniature("amd_x4_classical", tmp_path, start) | {"amp": "none"}
    options["losses"] = [{"type": "Charbonnier", "weight": 0.5, "epsilon": 0.01}]
    model = build_model(options, tmp_path)
    image = torch.rand(4, 3, 8, 8)
    losses = model.losses.of(image, image, image, torch.Generator())
    assert set(losses) == {"l_charbonnier"} and float(losses["l_charbonnier"]) == pytest.approx(0.5 * 0.01)
    assert "charbonnier" in model.header().rewards


def test_recipe_reward() -> None:
    run_recipe("A reward")
    reward = build_rewards([{"type": "SmoothnessReward", "weight": 0.1}])
    flat, noisy = torch.full((1, 3, 8, 8), 0.5), torch.rand(1, 3, 8, 8)
    total, values = reward(torch.cat([flat, noisy]))
    assert total.shape == (2,) and values["smoothness"][0] == 0 and total[1] < 0


def test_recipe_sampler(tmp_path: Path) -> None:
    run_recipe("A sampler")
    lq, restored = torch.rand(1, 3, 8, 8), {}
    try:
        for sampler in ("ode", "renoise", "half_fresh"):
            weights = save_tiny(tmp_path / f"{sampler}.safetensors", sampler=sampler)
            restored[sampler] = RestorationPipeline.from_pretrained(weights, "cpu", "float32")(lq, num_steps=3)
    finally:
        del SAMPLERS["half_fresh"]
    assert all((restored["half_fresh"] - restored[other]).abs().max() > 1e-4 for other in ("ode", "renoise"))
    with pytest.raises(AMDRestoreError, match="'sampler' must be one of ode, renoise"):
        RestorationPipeline.from_pretrained(tmp_path / "half_fresh.safetensors")


def test_recipe_dataset(tmp_path: Path, tiny_image: np.ndarray) -> None:
    register_all(training=True)
    names = run_recipe("A dataset")
    cv2.imwrite(str(tmp_path / "a.png"), tiny_image)
    mirrored, plain = (names[name](str(tmp_path), scale=4)[0] for name in ("MirroredDataset", "GTDataset"))
    assert mirrored["lq"].shape == (3, 12, 16) and torch.equal(mirrored["gt"], plain["gt"].flip(-1))
