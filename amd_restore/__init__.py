"""Photo super-resolution in one to four diffusion steps, by Adaptive Matching Distillation.

``from amd_restore import RestorationPipeline`` is the door for Python programs. Importing this package imports
nothing heavy: torch and the rest come with the first public name that needs them. It switches off the telemetry of the
packages that it uses, and shortens the time for which threads of torch spin where they wait.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from amd_restore.compat import set_up_environment
from amd_restore.errors import AMDRestoreError

if TYPE_CHECKING:
    from amd_restore.pipeline import RestorationPipeline

__version__ = "0.1.0"
__all__ = ["AMDRestoreError", "RestorationPipeline", "__version__"]

set_up_environment()


def __getattr__(name: str) -> Any:
    if name == "RestorationPipeline":
        return importlib.import_module("amd_restore.pipeline").RestorationPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
