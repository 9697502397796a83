"""All workarounds for third-party packages.

Each is mended only where it is needed:

* BasicSR 1.4.2 imports three modules that no longer exist: ``torchvision.transforms.functional_tensor`` (newer
  torchvision; fixed in BasicSR's master branch, never released), ``distutils.version`` (Python 3.12, unless
  setuptools is installed, which brings its own) and ``scipy.ndimage.filters`` (SciPy 2). That it cannot be built on
  Python 3.13 is mended elsewhere: ``third_party/README.md``.
* A CUDA build of torchvision beside a CPU build of torch cannot load its operators, and ``import torchvision``
  stops with "operator torchvision::nms does not exist". The operators are declared (not implemented: nothing
  here calls them), so that the import succeeds. **The real fix is a matching pair of builds**: torch and
  torchvision both from PyTorch's CPU index, or both from the same CUDA index; then this module leaves
  torchvision alone.
* ONNX Runtime, OpenVINO, Ray and the packages of Hugging Face report their use to their makers unless told not to.
* GNU OpenMP, with which torch computes on CPUs, lets threads spin for a long time where they wait for one another.
  Beside another busy program they spin in the place of the thread that they wait for.
* openai-clip 1.0.1, which pyiqa uses, takes ``packaging`` out of ``pkg_resources``, which setuptools 82 dropped.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

_FUNCTIONAL_TENSOR = "torchvision.transforms.functional_tensor"
_MISSING_OPERATOR = "operator torchvision::nms does not exist"
_NMS_ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_declarations: list[Any] = []  # torch.library forgets a declaration when its Library object dies


# Variables that packages read when they are imported.
_TELEMETRY = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, diffusers, transformers, gradio
    "RAY_USAGE_STATS_ENABLED": "0",
}


# Rounds of the loop in which a waiting thread spins before it sleeps: enough for the waits of a quiet machine.
_WAITING = {"GOMP_SPINCOUNT": "10000"}


def set_up_environment() -> None:
    """Switch off what dependencies report, and shorten OpenMP's waits; call it before they are imported.

    What the user has set stays.
    """
    waiting = {} if "OMP_WAIT_POLICY" in os.environ else _WAITING
    for name, value in {**_TELEMETRY, **waiting}.items():
        os.environ.setdefault(name, value)
    # OpenVINO has no such variable: without this package it reports nothing. None makes its import fail, which the
    # type of sys.modules does not allow for.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def patch() -> None:
    """Mend what needs mending; call it before the first import of torchvision, BasicSR, lpips or pyiqa.

    Safe to call any number of times. Without torchvision there is nothing to mend and nothing is imported.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    _import_torchvision()
    _provide_functional_tensor()
    if importlib.util.find_spec("basicsr") is not None:
        _provide_distutils()
        _provide_ndimage_filters()


def patch_clip() -> None:
    """Provide the one name that openai-clip takes from ``pkg_resources``; call it before CLIP's first import.

    Does nothing where setuptools still has that module, or where CLIP is not installed.
    """
    missing = "pkg_resources" not in sys.modules and importlib.util.find_spec("pkg_resources") is None
    if missing and importlib.util.find_spec("clip") is not None:
        module = types.ModuleType("pkg_resources", "Stand-in made by amd_restore.compat for openai-clip 1.0.1.")
        module.packaging = importlib.import_module("packaging")  # type: ignore[attr-defined]
        importlib.import_module("packaging.version")
        sys.modules["pkg_resources"] = module


def _import_torchvision() -> None:
    """Import torchvision, declaring its two non-maximum-suppression operators if that is what stops it."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _MISSING_OPERATOR not in str(error):
            raise
        # The failed import leaves submodules behind; start again from nothing.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declare_operators()
        importlib.import_module("torchvision")


def _declare_operators() -> None:
    """Declare ``torchvision::nms`` and ``torchvision::qnms`` without an implementation."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(name + _NMS_ARGUMENTS)
    _declarations.append(library)


def _provide_functional_tensor() -> None:
    """Provide the one function that BasicSR takes from the module that torchvision dropped."""
    if _FUNCTIONAL_TENSOR in sys.modules or importlib.util.find_spec(_FUNCTIONAL_TENSOR) is not None:
        return
    functional = importlib.import_module("torchvision.transforms.functional")
    module = types.ModuleType(_FUNCTIONAL_TENSOR, "Stand-in made by amd_restore.compat for BasicSR 1.4.2.")
    module.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules[_FUNCTIONAL_TENSOR] = module


def _provide_distutils() -> None:
    """Provide ``distutils.version.LooseVersion``, which BasicSR compares torchvision's version with."""
    if "distutils" in sys.modules or importlib.util.find_spec("distutils") is not None:
        return
    package = types.ModuleType("distutils", "Stand-in made by amd_restore.compat for BasicSR 1.4.2.")
    package.__path__ = []
    package.version = types.ModuleType("distutils.version", package.__doc__)  # type: ignore[attr-defined]
    package.version.LooseVersion = importlib.import_module("packaging.version").Version
    sys.modules["distutils"] = package
    sys.modules["distutils.version"] = package.version


def _provide_ndimage_filters() -> None:
    """Provide ``scipy.ndimage.filters``, whose functions are all in ``scipy.ndimage``, too.

    SciPy is not imported for it, neither here nor to look: that takes longer than all the rest of this module.
    """
    scipy = importlib.util.find_spec("scipy")
    folders = scipy.submodule_search_locations if scipy is not None else None
    name = "scipy.ndimage.filters"
    if not folders or name in sys.modules or any(Path(folder, "ndimage", "filters.py").exists() for folder in folders):
        return

    def function(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(importlib.import_module("scipy.ndimage"), attribute)

    module = types.ModuleType(name, "Stand-in made by amd_restore.compat for BasicSR 1.4.2.")
    module.__getattr__ = function  # type: ignore[method-assign]
    sys.modules[name] = module
