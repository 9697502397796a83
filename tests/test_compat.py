"""compat.py: mends what is broken, leaves alone what is not, and costs nothing before it is called."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from amd_restore import compat

ROOT = Path(__file__).resolve().parent.parent


def run_python(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, ``paths`` first on its import path."""
    path = os.pathsep.join(map(str, [*paths, ROOT]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, amd_restore, amd_restore.compat, amd_restore.registry\n"
        "heavy = {'torch', 'cv2', 'numpy', 'diffusers', 'basicsr', 'torchvision'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_basicsr_trains_after_patch() -> None:
    code = (
        "from amd_restore import compat\n"
        "compat.patch(); compat.patch()\n"
        "import basicsr.train, torch, torchvision.transforms.functional as functional\n"
        "from basicsr.data.degradations import rgb_to_grayscale\n"
        "image = torch.rand(1, 3, 4, 5)\n"
        "assert torch.equal(rgb_to_grayscale(image), functional.rgb_to_grayscale(image))\n"
        "has_ops = __import__('torchvision').extension._has_ops()\n"
        "assert len(compat._declarations) == (0 if has_ops else 1), (has_ops, compat._declarations)\n"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


FAKE_TORCHVISION = """
import torch
from torchvision import leftover
torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "Meta")
torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::qnms", "Meta")
"""


def fake_torchvision(folder: Path, source: str) -> None:
    """A torchvision that fails as the real one does beside another build of torch."""
    transforms = folder / "torchvision" / "transforms"
    transforms.mkdir(parents=True)
    (folder / "torchvision" / "__init__.py").write_text(source)
    (folder / "torchvision" / "leftover.py").write_text("")
    (transforms / "__init__.py").write_text("")
    (transforms / "functional.py").write_text("def rgb_to_grayscale(img): return img\n")


def test_missing_operators_are_declared(tmp_path: Path) -> None:
    fake_torchvision(tmp_path, FAKE_TORCHVISION)
    unpatched = run_python("import torchvision", tmp_path)
    assert compat._MISSING_OPERATOR in unpatched.stderr
    code = (
        "from amd_restore import compat; compat.patch()\n"
        "import torchvision, torchvision.transforms.functional_tensor as ft\n"
        "assert len(compat._declarations) == 1 and ft.rgb_to_grayscale(3) == 3\n"
    )
    patched = run_python(code, tmp_path)
    assert patched.returncode == 0, patched.stderr


def test_a_sound_torchvision_is_left_alone(tmp_path: Path) -> None:
    fake_torchvision(tmp_path, "")
    own = "def rgb_to_grayscale(img): return 'own'\n"
    (tmp_path / "torchvision" / "transforms" / "functional_tensor.py").write_text(own)
    code = (
        "import sys\nfrom amd_restore import compat; compat.patch()\n"
        "from torchvision.transforms.functional_tensor import rgb_to_grayscale\n"
        "assert rgb_to_grayscale(0) == 'own' and not compat._declarations and 'torch' not in sys.modules\n"
    )
    result = run_python(code, tmp_path)
    assert result.returncode == 0, result.stderr


def test_other_failures_of_torchvision_are_not_hidden(tmp_path: Path) -> None:
    fake_torchvision(tmp_path, "raise RuntimeError('the disk is on fire')")
    result = run_python("from amd_restore import compat; compat.patch()", tmp_path)
    assert result.returncode != 0 and "the disk is on fire" in result.stderr


def test_without_torchvision_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> types.ModuleType:
        raise AssertionError(f"imported {name}")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib, "import_module", refuse)
    compat.patch()
