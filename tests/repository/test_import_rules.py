"""Who may import whom. The package is built in wings, and arrows between them point down:

- *ground* (``errors``, ``atomic``, ``registry`` ...) is what everybody stands on;
- the *core* (``diffusion``, ``losses``, ``archs``, ``rewards``, ``data``, ``models``) is the method, imports no wing;
- *inference* (``pipeline`` and its parts, ``postprocess``, ``backends``, ``image_io``, ``integrations``) restores
  images and never imports what only training needs;
- *training* and *measuring* (``training``, ``benchmark``, ``report``) may import the core and inference;
- *apps* (the command line, folders, Ray, videos, the web page) may import everything below; nothing imports apps.

A new folder or module of the package needs one line in ``MAY_IMPORT``; each third party has its doors in ``DOORS``.
Imports inside functions count too.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from places import REPOSITORY

PACKAGE = REPOSITORY / "amd_restore"

OPEN_TO_ALL = {"errors", "atomic", "arrays"}
WINGS: dict[str, dict[str, set[str]]] = {
    # wing -> its folders and modules -> what each may import besides itself and OPEN_TO_ALL
    "ground": {
        "errors": set(),
        "atomic": set(),
        "arrays": set(),
        "compat": set(),
        "precision": set(),
        "registry": {"compat"},
        "options": {"registry"},
    },
    "core": {
        "diffusion": set(),
        "losses": {"registry", "rewards"},
        "archs": {"registry", "compat", "diffusion"},
        "rewards": {"registry", "compat"},
        "data": {"registry", "options"},
        "weights": {"archs", "registry", "diffusion"},
        "models": {
            *("registry", "options", "precision"),
            *("diffusion", "losses", "archs", "rewards", "data", "weights"),
        },
    },
    "inference": {
        "__init__": {"compat", "pipeline"},  # the latter when the name is first used
        "image_io": {"registry"},
        "inference": {"precision", "weights", "diffusion", "archs", "backends", "image_io"},
        "postprocess": {"diffusion", "image_io"},
        "backends": {"precision", "weights", "diffusion", "archs", "image_io"},
        "pipeline": {"precision", "weights", "diffusion", "image_io", "inference", "backends"},
        "integrations": {"compat", "weights", "diffusion", "inference", "postprocess", "pipeline"},
    },
    "training": {
        "training": {"registry", "options", "data", "models"},
        "train": {"training"},
        "test": {"training"},
    },
    "measuring": {
        "benchmark": {
            *("registry", "options", "diffusion", "rewards", "data", "models", "weights"),
            *("image_io", "inference", "postprocess", "pipeline"),
        },
        "report": {"options", "models", "benchmark"},
    },
    "apps": {
        "apps/files": {"weights", "image_io", "inference", "postprocess", "pipeline"},
        "apps/ray": {"weights", "image_io", "inference", "pipeline", "apps/files"},
        "apps/video": {"image_io"},
        "apps/ui": {"weights", "image_io", "inference", "pipeline", "apps/files"},
        "apps/cli": {
            *("registry", "precision", "archs", "weights", "backends", "image_io", "inference", "pipeline"),
            *("apps/files", "apps/ray", "apps/video", "apps/ui"),
        },
    },
}
MAY_IMPORT = {unit: allowed for units in WINGS.values() for unit, allowed in units.items()}

# third party -> its doors; what is not listed is open to all
DOORS = {
    "fsspec": {"apps/ray"},
    "onnx": {"backends"},
    "onnxruntime": {"backends"},
    "ray": {"apps/ray"},
    "openvino": {"backends", "apps/cli"},
    "diffusers": {"archs", "integrations"},
    "peft": {"archs"},
    "transformers": {"archs"},
    "spandrel": {"integrations"},
    "comfy": {"integrations"},
    "folder_paths": {"integrations"},  # ComfyUI's
    "lpips": {"rewards", "benchmark"},
    "pyiqa": {"rewards", "benchmark"},
    "cv2": {"data", "image_io"},
    "matplotlib": {"benchmark", "report"},
    "fastapi": {"apps/ui"},
    "nicegui": {"apps/ui"},
    "starlette": {"apps/ui"},
    "uvicorn": {"apps/ui"},
    "basicsr": {"data", "models", "training", "benchmark"},  # registry: lazily, by name
    "torchvision": {"compat"},
    "safetensors": {"archs", "weights", "rewards", "inference"},
    "yaml": {"options", "benchmark"},
}
TORCH_ONLY = {"losses", "precision"}
ARRAYS_ONLY = {"arrays", "diffusion"}  # and the tiling of inference
OF_ARRAYS = {"torch", "numpy", "PIL"}
FILES = sorted(PACKAGE.rglob("*.py"))


def unit_of(parts: tuple[str, ...]) -> str:
    """Folder or module at the root of the package, or folder of apps, that a file or a dotted name belongs to."""
    return "/".join(parts[:2]) if parts[0] == "apps" and len(parts) > 1 else parts[0]


def imports_of(file: Path) -> set[tuple[str, ...]]:
    """Imported dotted names, as tuples, anywhere in a file."""
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: relative import"
            module = tuple((node.module or "").split("."))
            submodules = module in ((PACKAGE.name,), (PACKAGE.name, "apps"))
            found |= {(*module, alias.name) if submodules else module for alias in node.names}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file: Path) -> None:
    unit = unit_of(file.relative_to(PACKAGE).with_suffix("").parts)
    if unit == "apps/__init__":
        assert imports_of(file) == set()
        return
    assert unit in MAY_IMPORT, f"{unit} has no line in WINGS"
    parties: set[str] | None = {"torch"} if unit in TORCH_ONLY else None
    if unit in ARRAYS_ONLY or file == PACKAGE / "inference" / "tiling.py":
        parties = OF_ARRAYS
    for name in imports_of(file):
        if name[0] == PACKAGE.name and len(name) > 1 and not name[1].startswith("__"):
            target = unit_of(name[1:])
            assert target in MAY_IMPORT[unit] | OPEN_TO_ALL | {unit}, f"{unit} must not import {target}"
        elif name[0] in DOORS:
            assert unit in DOORS[name[0]], f"{name[0]} is imported through {', '.join(DOORS[name[0]])} only"
        elif parties is not None and name[0] != PACKAGE.name:
            assert name[0] in parties | sys.stdlib_module_names, f"{unit} may import {', '.join(sorted(parties))} only"


def test_the_table_is_what_the_wings_promise() -> None:
    reachable = {"ground": {"ground"}, "core": {"ground", "core"}}
    reachable["inference"] = reachable["core"] | {"inference"}
    reachable["training"] = reachable["core"] | {"training"}
    reachable["measuring"] = reachable["inference"] | {"measuring"}
    reachable["apps"] = reachable["inference"] | {"apps"}
    wing_of = {unit: wing for wing, units in WINGS.items() for unit in units}
    up = [
        f"{unit} -> {target}"
        for unit, allowed in MAY_IMPORT.items()
        for target in allowed
        if wing_of[target] not in reachable[wing_of[unit]]
    ]
    assert up == []
    training_only = {"losses", "rewards", "data", "models", "options"}
    assert not any(allowed & training_only for allowed in WINGS["inference"].values())


def test_the_table_has_no_circle() -> None:
    waiting = {unit: allowed - {unit} for unit, allowed in MAY_IMPORT.items()}
    while free := {unit for unit, allowed in waiting.items() if not allowed & set(waiting)}:
        waiting = {unit: allowed for unit, allowed in waiting.items() if unit not in free}
    assert waiting == {}


def test_the_table_has_no_line_without_a_place() -> None:
    units = {unit_of(file.relative_to(PACKAGE).with_suffix("").parts) for file in FILES} - {"apps/__init__"}
    assert set(MAY_IMPORT) == units


def test_scripts_beside_the_package_use_its_doors_only() -> None:
    imported = {name[0] for name in imports_of(REPOSITORY / "inference.py")}
    assert imported - set(sys.stdlib_module_names) == {PACKAGE.name}
