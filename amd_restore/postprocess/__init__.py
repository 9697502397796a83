"""Optional post-processing: colour fix, consistency, uncertainty, comparison.

Images are tensors or NumPy arrays, (B, 3, H, W) in [0, 1]. Steps on tiles declare their halo in pixels of ``lq``.
"""

from __future__ import annotations

from amd_restore.postprocess.colour import COLOR_FIXES, AdainFix, ChannelStatistics, WaveletFix
from amd_restore.postprocess.compare import ENLARGEMENTS, side_by_side
from amd_restore.postprocess.consistency import Consistency, knows_downscaling, lq_psnr
from amd_restore.postprocess.resample import downscale
from amd_restore.postprocess.uncertainty import IDEAL_ERROR_PER_STD, SampleStatistics, expected_error, heat_map

__all__ = [
    "COLOR_FIXES",
    "ENLARGEMENTS",
    "IDEAL_ERROR_PER_STD",
    "AdainFix",
    "ChannelStatistics",
    "Consistency",
    "SampleStatistics",
    "WaveletFix",
    "downscale",
    "expected_error",
    "heat_map",
    "knows_downscaling",
    "lq_psnr",
    "side_by_side",
]
