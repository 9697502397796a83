"""Adapters for diffusers, spandrel and ComfyUI. Nothing else of the package imports these modules."""

from __future__ import annotations

from amd_restore import compat

compat.patch()  # Both packages import torchvision if it is installed.
