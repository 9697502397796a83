"""Building of network, denoiser and codec from a header."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from amd_restore.arrays import Array
from amd_restore.diffusion import CODECS, Codec, Denoiser, build_codec, build_process
from amd_restore.errors import AMDRestoreError
from amd_restore.registry import ARCH_REGISTRY, import_plugins
from amd_restore.weights.header import Header

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from amd_restore.archs.base import RestorationNetwork

ENCODER_PREFIX = "encoder."  # prefix of the tensors of an encoder trained with the network
SOURCE_KEY = "pretrained_model_name_or_path"  # key of a diffusers checkpoint, in network and codec


def build_network(header: Header, state_dict: Mapping[str, Tensor] | None = None) -> RestorationNetwork:
    """Build the network of a header, in evaluation mode.

    Args:
        header: header of a weights file; the base of an adapter is loaded and merged.
        state_dict: tensors of that file; None keeps the random initial weights.

    Raises:
        AMDRestoreError: an unknown network, arguments or tensors that do not fit, or another base.
    """
    import torch

    from amd_restore.archs.base import checked_network

    # This is cheap, because networks import third parties only when built.
    import_plugins("archs", "*_arch.py")
    options = dict(header.network)
    kind = options.pop("type")
    try:
        with torch.device("cpu"):  # The host program may have other defaults.
            net = checked_network(ARCH_REGISTRY.get(kind)(**options)).float()
        check_network_base(header, net)
        if state_dict is not None:
            net.load_state_dict(split_encoder(state_dict)[1])
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise AMDRestoreError(f"weights of '{header.name}' do not fit {kind}: {reason[:300]}") from error
    return (net.merged() if net.base_fingerprint else net).eval()


def build_denoiser(header: Header, net: Callable[..., Array], dtype: torch.dtype | None = None) -> Denoiser:
    """Wrap ``net`` with the process and prediction type of ``header``: ``x0 = denoiser(x_t, t, cond)``."""
    return Denoiser(net, build_process(header.process), header.prediction_type, dtype)


def build_header_codec(header: Header, state_dict: Mapping[str, Array] | None = None) -> Codec:
    """Build the codec of ``header``.

    Args:
        header: header of a weights file.
        state_dict: tensors of that file, for a trained encoder.

    Raises:
        AMDRestoreError: the autoencoder cannot be loaded, or differs from that of training.
    """
    if header.codec.get("type", CODECS[0]) in CODECS:
        codec: Codec = build_codec(header.codec)
    else:
        from amd_restore.archs.latent import codecs

        codec = codecs.build_codec(header.codec)
    _check_base(header, "codec", codec.fingerprint, header.codec)
    trained, _ = split_encoder(state_dict or {})
    if trained:
        codec.load_trained_state(trained)
    return codec


def split_encoder(state_dict: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the tensors of a trained encoder, under the codec's names, and those of the network."""
    encoder = {k.removeprefix(ENCODER_PREFIX): v for k, v in state_dict.items() if k.startswith(ENCODER_PREFIX)}
    return encoder, {k: v for k, v in state_dict.items() if not k.startswith(ENCODER_PREFIX)}


def check_network_base(header: Header, net: RestorationNetwork) -> None:
    """Compare the base of ``net`` with that of ``header``'s adapter in training.

    Raises:
        AMDRestoreError: the bases differ.
    """
    _check_base(header, "network", net.base_fingerprint, header.network)


def _check_base(header: Header, what: str, found: str | None, options: Mapping[str, Any]) -> None:
    wanted = header.bases.get(what)
    if wanted is not None and found is not None and wanted != found:
        raise AMDRestoreError(
            f"weights of '{header.name}' were trained with another {what} than {options.get(SOURCE_KEY)} holds now "
            f"(fingerprint {found}, wanted {wanted}); put the original one there"
        )
