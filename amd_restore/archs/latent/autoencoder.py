"""diffusers' autoencoders as a codec."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from amd_restore.archs.latent.adapters import AdapterWeights, FrozenBase, checkpoint_blocks, set_checkpointing
from amd_restore.archs.latent.pretrained import fingerprint, load_config, load_model, resolve
from amd_restore.diffusion.codec import upsample
from amd_restore.errors import AMDRestoreError

CLASSES = ("AutoencoderKL", "AutoencoderTiny")
# OSEDiff's, https://github.com/cswry/OSEDiff.
ENCODER_TARGETS = (
    "conv1",
    "conv2",
    "conv_in",
    "conv_shortcut",
    "conv",
    "conv_out",
    "to_k",
    "to_q",
    "to_v",
    "to_out.0",
)


class AutoencoderCodec:
    """Latents of ``AutoencoderKL`` (the mode of its posterior) or ``AutoencoderTiny``; weights are frozen.

    ``lq`` is enlarged to the size of the image before it is encoded.

    Args:
        scale: image pixels per ``lq`` pixel.
        pretrained_model_name_or_path: hub id, folder, or single file (``AutoencoderKL`` only).
        subfolder: folder of the autoencoder inside; None is the folder itself.
        revision: branch, tag or commit of the hub.
        checkpoint: compute the blocks of the decoder (and of a trained ``AutoencoderKL``) again in the backward pass.
        train_encoder: the encoder of the student's condition gets an adapter of its own that is trained (OSEDiff).
        encoder_lora: its options, see :meth:`~amd_restore.archs.latent.adapters.FrozenBase.add_adapter`.
        dtype: ``fp32`` or ``bf16``, of weights and arithmetic.

    Raises:
        AMDRestoreError: no such model, or none of these classes.
    """

    name = "autoencoder"

    def __init__(
        self,
        scale: int,
        pretrained_model_name_or_path: str,
        subfolder: str | None = "vae",
        revision: str | None = None,
        checkpoint: bool = False,
        train_encoder: bool = False,
        encoder_lora: Mapping[str, Any] | None = None,
        dtype: str = "fp32",
        single_file_config: str | None = None,
    ) -> None:
        if scale < 1:
            raise AMDRestoreError(f"codec: scale must be at least 1, got {scale}")
        self.scale, self.checkpoint = scale, checkpoint
        self._config = {
            "pretrained_model_name_or_path": pretrained_model_name_or_path,
            "subfolder": subfolder,
            "revision": revision,
            "train_encoder": train_encoder,
            "encoder_lora": dict(encoder_lora) if encoder_lora else None,
            "dtype": dtype,
            "single_file_config": single_file_config,
        }
        path = pretrained_model_name_or_path
        kind = "AutoencoderKL"  # of single files, which name no class
        if not Path(resolve(path)).is_file():
            kind = load_config(path, subfolder, revision).get("_class_name", "none")
            if kind not in CLASSES:
                raise AMDRestoreError(f"{path}/{subfolder or ''}: {kind} is not {' or '.join(CLASSES)}")
        self.vae = load_model(kind, path, subfolder, revision, dtype, single_file_config).requires_grad_(False)
        config = self.vae.config
        blocks = config.block_out_channels if kind == "AutoencoderKL" else config.encoder_block_out_channels
        self.patch = 2 ** (len(blocks) - 1)
        self._shift, self._factor = getattr(config, "shift_factor", None) or 0.0, config.scaling_factor
        self._fingerprint = fingerprint(self.vae)
        self.encoder_adapter: AdapterWeights | None = None
        if checkpoint:
            set_checkpointing(self.vae.decoder, checkpoint_blocks)
        if train_encoder:
            targets = ENCODER_TARGETS
            if kind == "AutoencoderTiny":  # a chain of convolutions without names
                targets = tuple(n for n, m in self.vae.encoder.named_modules() if isinstance(m, nn.Conv2d))
            self._encoder = FrozenBase(self.vae.encoder)
            self._adapter, self.encoder_adapter = self._encoder.add_adapter(encoder_lora or {}, targets)

    @property
    def channels(self) -> int:
        """Channels of a latent cell."""
        return int(self.vae.config.latent_channels)

    @property
    def cond_channels(self) -> int:
        """As many: the condition is a latent too."""
        return self.channels

    @property
    def lq_patch(self) -> int:
        """Sides of ``lq`` must be multiples of this."""
        return self.patch // math.gcd(self.patch, self.scale)

    @property
    def fingerprint(self) -> str:
        """Names the frozen weights, see :func:`~amd_restore.archs.latent.pretrained.fingerprint`."""
        return self._fingerprint

    def config(self) -> dict[str, Any]:
        """Options that rebuild this codec with ``build_codec`` of :mod:`~amd_restore.archs.latent.codecs`."""
        known = {key: value for key, value in self._config.items() if value is not None or key == "subfolder"}
        return {"type": self.name, "scale": self.scale, **known}

    def to(self, device: torch.device | str) -> Self:
        """Move the autoencoder."""
        self.vae.to(device)
        return self

    def upsample(self, lq: Tensor) -> Tensor:
        """Bicubic upsampling (a = -0.5, as MATLAB and PIL) of (B, 3, H, W) by ``scale``."""
        return upsample(lq, self.scale)

    def encode(self, gt: Tensor, lq: Tensor) -> Tensor:
        """Image (B, 3, H, W) in [0, 1] -> x0 (B, C, H / patch, W / patch); ``lq`` is not used."""
        return self._encode(gt, None)

    def decode(self, x0: Tensor, lq: Tensor) -> Tensor:
        """Latent -> image, not clamped; gradient goes to ``x0``."""
        self._follow(x0)
        latent = (x0 / self._factor + self._shift).to(self.vae.dtype)
        image: Tensor = self.vae.decode(latent).sample
        return image.float() / 2 + 0.5

    def condition(self, lq: Tensor, trained: bool = False) -> Tensor:
        """Latent of the enlarged ``lq``, which is clamped to [0, 1].

        Args:
            lq: (B, 3, H, W) in [0, 1].
            trained: by the encoder that is trained, where there is one; gradient goes to its adapter.
        """
        return self._encode(self.upsample(lq).clamp(0, 1), self._adapter if trained and self.encoder_adapter else None)

    def latent_shape(self, lq: Tensor) -> tuple[int, int, int, int]:
        """Shape of the x0 that belongs to ``lq``."""
        return lq.shape[0], self.channels, self.cells(lq.shape[2]), self.cells(lq.shape[3])

    def cells(self, pixels: int) -> int:
        """``pixels`` of lq in latent cells."""
        return pixels * self.scale // self.patch

    # ---- the encoder that is trained ---------------------------------------------------------------------------

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Those of the encoder's adapter; none without ``train_encoder``."""
        return list(self.encoder_adapter.parameters()) if self.encoder_adapter else []

    def trained_state(self) -> dict[str, Tensor]:
        """State of the encoder's adapter."""
        return dict(self.encoder_adapter.state_dict()) if self.encoder_adapter else {}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`trained_state`.

        Raises:
            AMDRestoreError: the state of another encoder.
        """
        wanted = self.trained_state()
        if {key: value.shape for key, value in state.items()} != {key: value.shape for key, value in wanted.items()}:
            raise AMDRestoreError(
                f"codec: {len(state)} tensors of a trained encoder do not fit the {len(wanted)} of this one; "
                "check train_encoder and encoder_lora"
            )
        if self.encoder_adapter:
            self.encoder_adapter.load_state_dict(state)

    # ---- inside -----------------------------------------------------------------------------------------------

    def _encode(self, image: Tensor, adapter: str | None) -> Tensor:
        self._follow(image)
        # diffusers 0.42.1 forgets to scale the image where it recomputes a tiny encoder, which needs little anyway.
        recompute = self.checkpoint and hasattr(self.vae.config, "down_block_types")
        with self._encoder.active(adapter, recompute) if self.encoder_adapter else contextlib.nullcontext():
            encoded = self.vae.encode((image * 2 - 1).to(self.vae.dtype))
        latent = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return (latent.float() - self._shift) * self._factor

    def _follow(self, x: Tensor) -> None:
        if self.vae.device != x.device:
            self.to(x.device)
