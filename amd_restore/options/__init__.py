"""Option files (yml) -> checked options. A key nobody declared is an error that names the nearest declared one.

To add an option: one field in :mod:`~amd_restore.options.blocks` (ours) or :mod:`~amd_restore.options.basicsr`
(BasicSR's). The constructor arguments of networks and rewards need no entry: their signatures are the declaration.
"""

from __future__ import annotations

from amd_restore.options.blocks import (
    CodecOptions,
    DegradationOptions,
    DiffusionOptions,
    DistillOptions,
    LossOptions,
    RewardOptions,
)
from amd_restore.options.files import OptionFile, merge, read_yaml
from amd_restore.options.load import check_devices, load_options
from amd_restore.options.run import RunOptions

__all__ = [
    "CodecOptions",
    "DegradationOptions",
    "DiffusionOptions",
    "DistillOptions",
    "LossOptions",
    "OptionFile",
    "RewardOptions",
    "RunOptions",
    "check_devices",
    "load_options",
    "merge",
    "read_yaml",
]
