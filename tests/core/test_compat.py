"""compat.py: mends what is broken, leaves alone what is not, and costs nothing before it is called."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from places import REPOSITORY

from amd_restore import compat


def run_python(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, ``paths`` first on its import path, and without setuptools' own distutils."""
    path = os.pathsep.join(map(str, [*paths, REPOSITORY]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "SETUPTOOLS_USE_DISTUTILS": "stdlib"}
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
        "import basicsr.archs.arch_util, basicsr.metrics, basicsr.train\n"
        "import torch, torchvision.transforms.functional as functional\n"
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


# Hides Python's own distutils, as if this were Python 3.12.
NO_DISTUTILS = """
from importlib.machinery import PathFinder
found = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == "distutils" else found(name, *rest)
"""


def fake_basicsr(folder: Path) -> None:
    """BasicSR's two imports that newer Python and SciPy break, and a SciPy whose ndimage has no filters.py."""
    fake_torchvision(folder, "")
    (folder / "basicsr").mkdir()
    (folder / "basicsr" / "__init__.py").write_text("")
    (folder / "basicsr" / "arch_util.py").write_text("from distutils.version import LooseVersion\n")
    (folder / "basicsr" / "niqe.py").write_text("from scipy.ndimage.filters import convolve\n")
    (folder / "scipy" / "ndimage").mkdir(parents=True)
    (folder / "scipy" / "__init__.py").write_text("")
    (folder / "scipy" / "ndimage" / "__init__.py").write_text("def convolve(): return 'SciPy 2'\n")


def test_distutils_is_provided_where_python_has_none(tmp_path: Path) -> None:
    fake_basicsr(tmp_path)
    unpatched = run_python(NO_DISTUTILS + "import basicsr.arch_util", tmp_path)
    assert "No module named 'distutils'" in unpatched.stderr, unpatched.stderr
    code = (
        "from amd_restore import compat; compat.patch(); compat.patch()\n"
        "from basicsr.arch_util import LooseVersion as V\n"
        "assert V('0.9.1') < V('0.13.0') <= V('0.13.0+cpu') < V('0.28.0'), V\n"
    )
    patched = run_python(NO_DISTUTILS + code, tmp_path)
    assert patched.returncode == 0, patched.stderr


def test_filters_are_provided_where_scipy_has_none(tmp_path: Path) -> None:
    fake_basicsr(tmp_path)
    unpatched = run_python("import basicsr.niqe", tmp_path)
    assert "No module named 'scipy.ndimage.filters'" in unpatched.stderr, unpatched.stderr
    code = (
        "import sys\nfrom amd_restore import compat; compat.patch(); compat.patch()\n"
        "assert 'scipy' not in sys.modules, 'importing SciPy takes long'\n"
        "import basicsr.niqe; assert basicsr.niqe.convolve() == 'SciPy 2'\n"
        "assert not hasattr(sys.modules['scipy.ndimage.filters'], '__file__')\n"
    )
    patched = run_python(code, tmp_path)
    assert patched.returncode == 0, patched.stderr


def test_modules_that_exist_are_left_alone(tmp_path: Path) -> None:
    fake_basicsr(tmp_path)
    (tmp_path / "scipy" / "ndimage" / "filters.py").write_text("convolve = 'own'\n")
    (tmp_path / "distutils").mkdir()
    (tmp_path / "distutils" / "__init__.py").write_text("")
    (tmp_path / "distutils" / "version.py").write_text("LooseVersion = 'own'\n")
    code = (
        "from amd_restore import compat; compat.patch()\n"
        "from basicsr import arch_util, niqe\n"
        "assert arch_util.LooseVersion == niqe.convolve == 'own'\n"
    )
    result = run_python(code, tmp_path)
    assert result.returncode == 0, result.stderr


def test_without_basicsr_none_of_its_modules_is_provided(tmp_path: Path) -> None:
    fake_torchvision(tmp_path, "")
    code = NO_DISTUTILS.replace('== "distutils"', 'in {"distutils", "basicsr"}') + (
        "import sys\nfrom amd_restore import compat; compat.patch()\n"
        "assert not {'distutils', 'scipy.ndimage.filters'} & set(sys.modules)\n"
    )
    result = run_python(code, tmp_path)
    assert result.returncode == 0, result.stderr
