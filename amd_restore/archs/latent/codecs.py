"""Codecs by option: those without weights, and the autoencoders of diffusers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from amd_restore import diffusion
from amd_restore.archs.latent.autoencoder import AutoencoderCodec
from amd_restore.diffusion import Codec
from amd_restore.errors import AMDRestoreError
from amd_restore.registry import did_you_mean


def build_codec(options: Mapping[str, Any]) -> Codec:
    """Codec from its :meth:`~amd_restore.diffusion.Codec.config`; ``type`` is residual, pixel or autoencoder.

    Keys of :class:`~amd_restore.diffusion.ResidualCodec`, :class:`~amd_restore.diffusion.PixelCodec` and
    :class:`~amd_restore.archs.latent.autoencoder.AutoencoderCodec`.

    Raises:
        AMDRestoreError: an unknown type or key, or a model that cannot be loaded.
    """
    if options.get("type", "residual") != AutoencoderCodec.name:
        return diffusion.build_codec(options)
    arguments = {key: value for key, value in options.items() if key != "type"}
    known = inspect.signature(AutoencoderCodec).parameters
    for key in arguments:
        if key not in known:
            raise AMDRestoreError(f"codec autoencoder: unknown key '{key}'; {did_you_mean(key, known)}")
    for key in ("scale", "pretrained_model_name_or_path"):
        if not arguments.get(key):
            raise AMDRestoreError(f"codec autoencoder: '{key}' is missing")
    return AutoencoderCodec(**arguments)
