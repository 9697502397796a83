"""A real restoration imports what it needs and nothing else; ``--help`` not even torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import REPOSITORY

# Packages of training, of benchmarks and of optional features.
NEVER = {
    "av", "basicsr", "diffusers", "efficientnet_lite_pytorch", "gradio", "huggingface_hub", "lmdb", "lpips",
    "matplotlib", "mpmath", "onnx", "onnxruntime", "openvino", "pandas", "pillow_heif", "pyiqa", "ray", "requests",
    "scipy", "skimage", "spandrel", "sympy", "tensorboard", "tifffile", "torchvision", "transformers", "yaml",
}  # fmt: skip
OURS_NEVER = {f"amd_restore.{name}" for name in ("benchmark", "data", "losses", "models", "options", "rewards")}
SCRIPT = """
import json, sys
from amd_restore.apps.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print(json.dumps([code, sorted(sys.modules)]))
"""


def run(arguments: list[str], folder: Path) -> tuple[int, set[str]]:
    """Exit code of the command and the modules in its process when it ended."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules)


def test_a_restoration_imports_no_training_package(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    code, modules = run(["-i", "a.png", "-o", "out"], tmp_path)
    assert code == 0
    assert Image.open(tmp_path / "out" / "a.png").size == (256, 256)
    assert "torch" in modules  # the list below would be empty of meaning otherwise
    assert not {name.split(".")[0] for name in modules} & NEVER
    assert not modules & OURS_NEVER
    assert not {name for name in modules if name.startswith(("torch._dynamo", "torch._inductor", "torch.onnx"))}


def test_a_graph_is_restored_without_importing_torch(tmp_path: Path) -> None:
    Image.fromarray(np.full((12, 12, 3), 99, np.uint8)).save(tmp_path / "a.png")
    code, modules = run(["-i", "a.png", "-o", "out", "--backend", "onnx", "--fidelity", "0.5"], tmp_path)
    assert code == 0
    assert "onnxruntime" in modules
    assert not {name.split(".")[0] for name in modules} & (NEVER - {"onnxruntime"} | {"torch"})


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_questions_are_answered_without_torch(arguments: list[str], tmp_path: Path) -> None:
    code, modules = run(arguments, tmp_path)
    assert code == 0
    assert not modules & {"torch", "numpy", "cv2", "PIL"}


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    script = "import json, sys, amd_restore, amd_restore.apps.cli.export; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not set(json.loads(done.stdout)) & {"torch", "numpy", "cv2", "PIL", "onnx", "openvino"}
