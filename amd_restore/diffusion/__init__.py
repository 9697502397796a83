"""Forward processes, denoisers, codecs and samplers. Knows only torch."""

from __future__ import annotations

from amd_restore.diffusion.codec import Codec, PixelCodec, ResidualCodec, build_codec
from amd_restore.diffusion.denoiser import Denoiser
from amd_restore.diffusion.noise import field_noise
from amd_restore.diffusion.process import (
    PREDICTION_TYPES,
    FlowMatching,
    Process,
    RectifiedFlow,
    VariancePreserving,
    build_process,
)
from amd_restore.diffusion.sampling import approach, last_call, lq_start, rollout, sample

__all__ = [
    "PREDICTION_TYPES",
    "Codec",
    "Denoiser",
    "FlowMatching",
    "PixelCodec",
    "Process",
    "RectifiedFlow",
    "ResidualCodec",
    "VariancePreserving",
    "approach",
    "build_codec",
    "build_process",
    "field_noise",
    "last_call",
    "lq_start",
    "rollout",
    "sample",
]
