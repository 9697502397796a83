"""Forward processes, denoisers, codecs and samplers. Knows only torch."""

from __future__ import annotations

from amd_restore.diffusion.codec import ResidualCodec, build_codec
from amd_restore.diffusion.denoiser import Denoiser
from amd_restore.diffusion.noise import field_noise
from amd_restore.diffusion.process import PREDICTION_TYPES, Process, RectifiedFlow, ResidualShift, build_process
from amd_restore.diffusion.sampling import rollout, sample

__all__ = [
    "PREDICTION_TYPES",
    "Denoiser",
    "Process",
    "RectifiedFlow",
    "ResidualCodec",
    "ResidualShift",
    "build_codec",
    "build_process",
    "field_noise",
    "rollout",
    "sample",
]
