"""Weights files, and networks and codecs built from them."""

from __future__ import annotations

from amd_restore.weights.building import (
    ENCODER_PREFIX,
    SOURCE_KEY,
    build_denoiser,
    build_header_codec,
    build_network,
    check_network_base,
    split_encoder,
)
from amd_restore.weights.files import (
    DEFAULT_MODEL,
    METADATA_KEY,
    WEIGHTS_FOLDER,
    load_arrays,
    load_checkpoint,
    read_header,
    released_models,
    resolve_weights,
    save_checkpoint,
)
from amd_restore.weights.header import (
    FORMAT_VERSION,
    KINDS,
    Header,
)

__all__ = [
    "DEFAULT_MODEL",
    "ENCODER_PREFIX",
    "FORMAT_VERSION",
    "KINDS",
    "METADATA_KEY",
    "SOURCE_KEY",
    "WEIGHTS_FOLDER",
    "Header",
    "build_denoiser",
    "build_header_codec",
    "build_network",
    "check_network_base",
    "load_arrays",
    "load_checkpoint",
    "read_header",
    "released_models",
    "resolve_weights",
    "save_checkpoint",
    "split_encoder",
]
