"""What a user can ask of a restoration besides the restoration: more faithful, exactly consistent, in the colours of
the input, with its uncertainty, averaged over orientations, or shown beside the input.

Tensors in, tensors out, images (B, 3, H, W) in [0, 1]. What runs on tiles declares the halo it needs, in pixels of
``lq``; what needs the whole picture says so.
"""

from __future__ import annotations

from amd_restore.control.colour import COLOR_FIXES, AdainFix, ChannelStatistics, WaveletFix
from amd_restore.control.compare import ENLARGEMENTS, side_by_side
from amd_restore.control.consistency import Consistency, knows_downscaling, lq_psnr
from amd_restore.control.fidelity import Draw, noise_level, tempered
from amd_restore.control.post import Chain, PostProcess
from amd_restore.control.resample import downscale, upscale
from amd_restore.control.tta import TTA_MODES, medoid, orient, restore_oriented, unorient
from amd_restore.control.uncertainty import IDEAL_ERROR_PER_STD, SampleStatistics, expected_error, heat_map

__all__ = [
    "COLOR_FIXES",
    "ENLARGEMENTS",
    "IDEAL_ERROR_PER_STD",
    "TTA_MODES",
    "AdainFix",
    "Chain",
    "ChannelStatistics",
    "Consistency",
    "Draw",
    "PostProcess",
    "SampleStatistics",
    "WaveletFix",
    "downscale",
    "expected_error",
    "heat_map",
    "knows_downscaling",
    "lq_psnr",
    "medoid",
    "noise_level",
    "orient",
    "restore_oriented",
    "side_by_side",
    "tempered",
    "unorient",
    "upscale",
]
