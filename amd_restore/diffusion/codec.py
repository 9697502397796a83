"""Codecs: between images and the space in which diffusion runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from amd_restore.errors import AMDRestoreError

# Natural images fill [0, 1] with roughly this mean and deviation; the condition is brought to unit scale by them.
LQ_MEAN, LQ_STD = 0.45, 0.25


class ResidualCodec:
    """Pixel space at the cost of latent space: the residual ``gt - upsample(lq)``, space-to-depth, unit variance.

    Args:
        scale: integer upscaling factor between ``lq`` and the image, at least 1.
        patch: space-to-depth factor, a multiple of ``scale``; one latent cell covers ``patch`` x ``patch`` pixels.
        std: standard deviation of the residual over the training images (in [0, 1] pixel units).

    Raises:
        AMDRestoreError: when ``patch`` is no multiple of ``scale`` or a value is out of range.
    """

    name = "residual"

    def __init__(self, scale: int, patch: int = 4, std: float = 0.07) -> None:
        if scale < 1 or patch % scale:
            raise AMDRestoreError(f"codec: patch ({patch}) must be a multiple of scale ({scale})")
        if not std > 0:
            raise AMDRestoreError(f"codec: std must be positive, got {std}")
        self.scale, self.patch, self.std = scale, patch, std

    @property
    def channels(self) -> int:
        """Channels of a latent cell."""
        return 3 * self.patch**2

    @property
    def lq_patch(self) -> int:
        """Sides of ``lq`` must be multiples of this."""
        return self.patch // self.scale

    @property
    def cond_channels(self) -> int:
        """Channels of the condition."""
        return 3 * self.lq_patch**2

    def config(self) -> dict[str, Any]:
        """Options that rebuild this codec with :func:`build_codec`."""
        return {"type": self.name, "scale": self.scale, "patch": self.patch, "std": self.std}

    def upsample(self, lq: Tensor) -> Tensor:
        """Bicubic upsampling (a = -0.5, as MATLAB and PIL) of (B, 3, H, W) by ``scale``."""
        if self.scale == 1:
            return lq
        return F.interpolate(lq, scale_factor=float(self.scale), mode="bicubic", antialias=True)

    def encode(self, gt: Tensor, lq: Tensor) -> Tensor:
        """Image (B, 3, sH, sW) in [0, 1] -> x0 (B, 3 patch^2, sH / patch, sW / patch)."""
        return F.pixel_unshuffle(gt - self.upsample(lq), self.patch) / self.std

    def decode(self, x0: Tensor, lq: Tensor) -> Tensor:
        """Inverse of :meth:`encode`; not clamped, so that training losses see the overshoot."""
        return self.upsample(lq) + F.pixel_shuffle(x0 * self.std, self.patch)

    def condition(self, lq: Tensor) -> Tensor:
        """Network condition (B, 3 lq_patch^2, h, w) made from ``lq`` (B, 3, H, W) in [0, 1]."""
        return F.pixel_unshuffle((lq - LQ_MEAN) / LQ_STD, self.lq_patch)

    def latent_shape(self, lq: Tensor) -> tuple[int, int, int, int]:
        """Shape of the x0 that belongs to ``lq``."""
        n, _, h, w = lq.shape
        return n, self.channels, h // self.lq_patch, w // self.lq_patch


def build_codec(options: Mapping[str, Any]) -> ResidualCodec:
    """Codec from ``{"type": "residual", "scale": 4, "patch": 4, "std": 0.07}``.

    Raises:
        AMDRestoreError: for an unknown type.
    """
    kind = options.get("type", ResidualCodec.name)
    if kind != ResidualCodec.name:
        raise AMDRestoreError(f"unknown codec '{kind}'; use {ResidualCodec.name}")
    return ResidualCodec(int(options["scale"]), int(options.get("patch", 4)), float(options.get("std", 0.07)))
