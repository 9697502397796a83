"""Codecs: between images and the space in which diffusion runs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np
from PIL import Image

from amd_restore.arrays import Array, HostArray, pad_edges, shuffle, unshuffle
from amd_restore.errors import AMDRestoreError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# Mean and standard deviation of natural images in [0, 1], roughly; they bring the condition to unit scale.
LQ_MEAN, LQ_STD = 0.45, 0.25
MIN_SIDE = 8  # Smaller inputs are padded, because networks were not trained on them.


def upsample(lq: Array, scale: int) -> Array:
    """Bicubic upsampling (a = -0.5, as MATLAB and PIL) of (B, C, H, W) by ``scale``."""
    if scale == 1:
        return lq
    if isinstance(lq, np.ndarray):
        return _upsample_planes(lq, scale)
    if lq.device.type == "mps":  # MPS had no antialiased bicubic interpolation up to torch 2.7 at least.
        return upsample_by_matrices(lq, scale)
    from torch.nn import functional as F

    return F.interpolate(lq, scale_factor=float(scale), mode="bicubic", antialias=True)


def _upsample_planes(lq: HostArray, scale: int) -> HostArray:
    count, channels, height, width = lq.shape
    out = np.empty((count, channels, scale * height, scale * width), np.float32)
    for plane, target in zip(lq.reshape(-1, height, width), out.reshape(-1, *out.shape[2:]), strict=True):
        target[:] = Image.fromarray(plane).resize(target.shape[::-1], Image.Resampling.BICUBIC)
    return out


def upsample_by_matrices(lq: Tensor, scale: int) -> Tensor:
    """:func:`upsample` of a tensor as two matrix products, which every device has."""
    rows, columns = (_upsampling(side, scale).to(lq) for side in lq.shape[2:])
    return rows @ lq @ columns.T


@functools.lru_cache(maxsize=16)
def _upsampling(side: int, scale: int) -> Tensor:
    """The matrix (scale side, side) that upsamples a column."""
    import torch
    from torch.nn import functional as F

    size = (scale * side, side)
    return F.interpolate(
        torch.eye(side, dtype=torch.float32, device="cpu")[None, None], size=size, mode="bicubic", antialias=True
    )[0, 0]


def cell_side(side: int, lq_patch: int) -> int:
    """The smallest multiple of ``lq_patch`` that is at least ``side`` and ``MIN_SIDE``."""
    return -(-max(side, MIN_SIDE) // lq_patch) * lq_patch


def cell_sized(lq: Array, lq_patch: int) -> Array:
    """``lq`` (B, 3, H, W) with its last rows and columns repeated up to :func:`cell_side`."""
    below, right = (cell_side(side, lq_patch) - side for side in lq.shape[2:])
    return pad_edges(lq, 0, below, 0, right) if below or right else lq


@runtime_checkable
class Codec(Protocol):
    """What lies between images, (B, 3, H, W) in [0, 1], and the latents in which diffusion runs.

    ``scale``: image pixels per ``lq`` pixel. ``patch``: image pixels per latent cell. ``lq_patch``: sides of ``lq``
    must be multiples of this. ``channels`` and ``cond_channels``: of a latent cell and of the condition.
    """

    name: str
    scale: int
    patch: int

    @property
    def fingerprint(self) -> str | None:
        """Names the frozen weights; None without any."""
        ...

    @property
    def channels(self) -> int: ...

    @property
    def cond_channels(self) -> int: ...

    @property
    def lq_patch(self) -> int: ...

    def upsample(self, lq: Array) -> Array:
        """``lq`` at the size of the image."""
        ...

    def encode(self, gt: Array, lq: Array) -> Array:
        """Image -> x0."""
        ...

    def decode(self, x0: Array, lq: Array) -> Array:
        """Inverse of :meth:`encode`, not clamped; carries gradient to ``x0``."""
        ...

    def condition(self, lq: Array, trained: bool = False) -> Array:
        """Condition of the network made from ``lq``; ``trained`` uses the encoder that is trained, if there is one."""
        ...

    def latent_shape(self, lq: Array) -> tuple[int, int, int, int]:
        """Shape of the x0 that belongs to ``lq``."""
        ...

    def cells(self, pixels: int) -> int:
        """``pixels`` of lq, a multiple of ``lq_patch``, in latent cells."""
        ...

    def config(self) -> dict[str, Any]:
        """Options that rebuild this codec."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Move what weights there are; returns the codec itself."""
        ...

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Those of the encoder that is trained; mostly none."""
        ...

    def trained_state(self) -> dict[str, Tensor]:
        """State of that encoder, mostly empty."""
        ...

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`trained_state`."""
        ...


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
    fingerprint: str | None = None

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

    def upsample(self, lq: Array) -> Array:
        """Bicubic upsampling (a = -0.5, as MATLAB and PIL) of (B, 3, H, W) by ``scale``."""
        return upsample(lq, self.scale)

    def encode(self, gt: Array, lq: Array) -> Array:
        """Image (B, 3, sH, sW) in [0, 1] -> x0 (B, 3 patch^2, sH / patch, sW / patch)."""
        return unshuffle(gt - self.upsample(lq), self.patch) / self.std

    def decode(self, x0: Array, lq: Array) -> Array:
        """Inverse of :meth:`encode`; not clamped, so that training losses include the overshoot."""
        return self.upsample(lq) + shuffle(x0 * self.std, self.patch)

    def condition(self, lq: Array, trained: bool = False) -> Array:
        """Network condition (B, 3 lq_patch^2, h, w) made from ``lq`` (B, 3, H, W) in [0, 1]."""
        return unshuffle((lq - LQ_MEAN) / LQ_STD, self.lq_patch)

    def latent_shape(self, lq: Array) -> tuple[int, int, int, int]:
        """Shape of the x0 that belongs to ``lq``."""
        n, _, h, w = lq.shape
        return n, self.channels, h // self.lq_patch, w // self.lq_patch

    def cells(self, pixels: int) -> int:
        """``pixels`` of lq in latent cells."""
        return pixels // self.lq_patch

    def to(self, device: torch.device | str) -> Self:
        """Nothing to move."""
        return self

    def trainable_parameters(self) -> list[nn.Parameter]:
        """None: nothing here has weights."""
        return []

    def trained_state(self) -> dict[str, Tensor]:
        """Empty."""
        return {}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes nothing but an empty state.

        Raises:
            AMDRestoreError: there is something in it.
        """
        if state:
            raise AMDRestoreError(f"codec {self.name}: has no trained encoder, but the file brings one")


class PixelCodec(ResidualCodec):
    """The image itself, space-to-depth: for networks that were not trained on residuals.

    The condition is the upsampled ``lq`` in the same form, so that it can also be a starting point.

    Args:
        scale, patch: see :class:`ResidualCodec`.
        std: standard deviation of an image's pixels around 0.5.
    """

    name = "pixel"

    def __init__(self, scale: int, patch: int = 4, std: float = 0.25) -> None:
        super().__init__(scale, patch, std)

    @property
    def cond_channels(self) -> int:
        """As many as a latent cell has."""
        return self.channels

    def encode(self, gt: Array, lq: Array) -> Array:
        """Image (B, 3, sH, sW) in [0, 1] -> x0 (B, 3 patch^2, sH / patch, sW / patch); ``lq`` is not used."""
        return unshuffle(gt - 0.5, self.patch) / self.std

    def decode(self, x0: Array, lq: Array) -> Array:
        """Inverse of :meth:`encode`; not clamped."""
        return shuffle(x0 * self.std, self.patch) + 0.5

    def condition(self, lq: Array, trained: bool = False) -> Array:
        """The upsampled ``lq`` (B, 3, H, W), encoded: (B, 3 patch^2, h, w)."""
        return self.encode(self.upsample(lq), lq)


CODECS = (ResidualCodec.name, PixelCodec.name)  # those without weights


def build_codec(options: Mapping[str, Any]) -> ResidualCodec:
    """Codec without weights, as in ``{"type": "residual", "scale": 4, "patch": 4, "std": 0.07}``.

    Those with weights are built by :func:`amd_restore.archs.latent.codecs.build_codec`, which also builds these.

    Raises:
        AMDRestoreError: for an unknown type.
    """
    kind = options.get("type", ResidualCodec.name)
    arguments: dict[str, Any] = {"scale": int(options["scale"])}
    arguments |= {key: cast(options[key]) for key, cast in (("patch", int), ("std", float)) if key in options}
    if kind == ResidualCodec.name:
        return ResidualCodec(**arguments)
    if kind == PixelCodec.name:
        return PixelCodec(**arguments)
    raise AMDRestoreError(f"unknown codec '{kind}'; use {ResidualCodec.name}, {PixelCodec.name} or autoencoder")
