"""Forward processes, denoisers, codecs and samplers, for torch tensors and NumPy arrays alike."""

from __future__ import annotations

from amd_restore.diffusion.codec import CODECS, Codec, PixelCodec, ResidualCodec, build_codec, cell_side, cell_sized
from amd_restore.diffusion.denoiser import Denoiser, GuidedDenoiser
from amd_restore.diffusion.noise import field_noise, host_noise
from amd_restore.diffusion.process import (
    PREDICTION_TYPES,
    FlowMatching,
    Process,
    RectifiedFlow,
    VariancePreserving,
    build_process,
)
from amd_restore.diffusion.sampling import (
    SAMPLERS,
    STARTS,
    Draw,
    Recipe,
    Sampler,
    approach,
    first_state,
    last_call,
    restore_latent,
    row_times,
    sample_ode,
    sample_renoise,
)

__all__ = [
    "CODECS",
    "PREDICTION_TYPES",
    "SAMPLERS",
    "STARTS",
    "Codec",
    "Denoiser",
    "Draw",
    "FlowMatching",
    "GuidedDenoiser",
    "PixelCodec",
    "Process",
    "Recipe",
    "RectifiedFlow",
    "ResidualCodec",
    "Sampler",
    "VariancePreserving",
    "approach",
    "build_codec",
    "build_process",
    "cell_side",
    "cell_sized",
    "field_noise",
    "first_state",
    "host_noise",
    "last_call",
    "restore_latent",
    "row_times",
    "sample_ode",
    "sample_renoise",
]
