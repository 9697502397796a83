"""Who may import whom: arrows point down, and each third party has one door.

A new module needs one line in ``LAYERS``. Imports inside functions count too.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "amd_restore"

# module or sub-package -> what it may import from amd_restore (``errors`` and ``atomic`` are open to all)
LAYERS: dict[str, set[str]] = {
    "__init__": {"pipeline"},  # at first use of the name only
    "errors": set(),
    "atomic": set(),
    "sizing": set(),
    "compat": set(),
    "registry": {"compat"},
    "options": {"registry"},
    "diffusion": set(),
    "losses": set(),
    "control": set(),
    "call_options": {"control"},
    "tiling": set(),
    "memory": {"precision"},
    "arrays": {"image_io"},
    "streaming": {"image_io"},
    "precision": set(),
    "archs": {"registry", "compat", "diffusion"},
    "data": {"registry", "options"},
    "rewards": {"registry", "compat"},
    "image_io": {"registry"},
    "checkpoint": {"archs", "registry", "diffusion"},
    "backends": {"checkpoint", "diffusion", "image_io", "precision"},
    "pipeline": {
        "diffusion",
        "archs",
        "arrays",
        "backends",
        "call_options",
        "checkpoint",
        "control",
        "image_io",
        "memory",
        "precision",
        "streaming",
        "tiling",
    },
    "ui": {"checkpoint", "image_io", "pipeline", "sizing"},
    "batch": {"pipeline", "checkpoint", "image_io", "control", "sizing", "streaming"},
    "cluster": {"batch", "checkpoint", "image_io", "memory"},
    "video": set(),
    "integrations": {"pipeline", "checkpoint", "diffusion", "compat"},
    "models": {
        "diffusion",
        "losses",
        "archs",
        "data",
        "rewards",
        "checkpoint",
        "options",
        "registry",
        "precision",
    },
}
ENTRY_POINTS = {
    "train",
    "test",
    "training",
    "benchmark",
    "cli",
    "export_command",
    "prompts_command",
    "release",
    "ui_command",
    "video_command",
    "__main__",
}
ENTRY_POINTS_MAY_SHARE = {
    ("train", "training"),
    ("test", "training"),
    ("cli", "export_command"),
    ("video_command", "cli"),
}

# third party -> its doors; what is not listed is open to all
DOORS = {
    "fsspec": {"cluster"},
    "onnx": {"backends"},
    "onnxruntime": {"backends"},
    "ray": {"cluster"},
    "openvino": {"backends", "export_command"},
    "diffusers": {"archs", "integrations"},
    "peft": {"archs"},
    "transformers": {"archs"},
    "spandrel": {"integrations"},
    "lpips": {"rewards", "benchmark"},
    "pyiqa": {"rewards", "benchmark"},
    "cv2": {"data", "image_io"},
    "matplotlib": {"benchmark"},
    "fastapi": {"ui"},
    "nicegui": {"ui"},
    "starlette": {"ui"},
    "uvicorn": {"ui"},
    "basicsr": {"data", "models", "train", "test", "training", "benchmark"},  # registry: lazily, by name
    "torchvision": {"compat"},
    "safetensors": {"archs", "checkpoint", "rewards"},
    "yaml": {"options", "benchmark"},
}
TORCH_ONLY = {"diffusion", "losses", "tiling", "precision"}
FILES = sorted(PACKAGE.rglob("*.py"))


def unit_of(file: Path) -> str:
    """Top-level module or sub-package of a file."""
    parts = file.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else file.stem


def imports_of(file: Path) -> set[tuple[str, ...]]:
    """Imported dotted names, as tuples, anywhere in a file."""
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: relative import"
            module = tuple((node.module or "").split("."))
            submodules = module == (PACKAGE.name,)
            found |= {(*module, alias.name) if submodules else module for alias in node.names}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file: Path) -> None:
    unit = unit_of(file)
    assert unit in LAYERS or unit in ENTRY_POINTS, f"{unit} has no line in LAYERS"
    for name in imports_of(file):
        if name[0] == PACKAGE.name and len(name) > 1 and not name[1].startswith("__"):
            target = name[1]
            allowed = LAYERS.get(unit, set(LAYERS)) | {unit, "errors", "atomic"}
            shared = unit in ENTRY_POINTS and (unit, target) in ENTRY_POINTS_MAY_SHARE
            assert target in allowed or shared, f"{unit} must not import {target}"
        elif name[0] in DOORS:
            assert unit in DOORS[name[0]], f"{name[0]} is imported through {', '.join(DOORS[name[0]])} only"
        elif unit in TORCH_ONLY and name[0] != PACKAGE.name:
            assert name[0] == "torch" or name[0] in sys.stdlib_module_names, f"{unit} knows only torch"


def test_scripts_beside_the_package_use_its_doors_only() -> None:
    imported = {name[0] for name in imports_of(PACKAGE.parent / "inference.py")}
    assert imported - set(sys.stdlib_module_names) == {PACKAGE.name}
