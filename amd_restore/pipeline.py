"""The public inference object: small images in, large images out.

pipeline = RestorationPipeline.from_pretrained()          # the weights in the package
sr = pipeline(lq, num_steps=1, seed=0)                    # (B, 3, H, W) in [0, 1] -> (B, 3, 4H, 4W) in [0, 1]
large = pipeline.restore_image(small)                     # numpy arrays, gray, alpha and 16 bits included
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amd_restore.checkpoint import (
    DEFAULT_MODEL,
    Header,
    build_denoiser,
    build_header_codec,
    build_network,
    load_checkpoint,
    resolve_weights,
)
from amd_restore.diffusion import field_noise, sample
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import fill_transparent
from amd_restore.precision import has_bfloat16
from amd_restore.tiling import blend_width, plan_axis, restore_tiled

DEFAULT_HALO = 16
AUTO_TILE = 512  # side in lq pixels; larger images are tiled unless the caller says otherwise
_MIN_SIDE = 8  # smaller inputs are padded: a network has seen no 1x1 pictures
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as every converter to gray does it


class RestorationPipeline:
    """A network, its process and its codec, behind one call.

    Args:
        header: of the weights file.
        net: network with its weights, see :func:`~amd_restore.checkpoint.build_network`.
        device: ``auto`` (CUDA, else Apple's MPS, else the CPU), or a name that torch knows.
        dtype: arithmetic of the network, float32 or bfloat16; ``auto`` is bfloat16 where the hardware has it.

    Raises:
        AMDRestoreError: the device is not there, or the dtype is none of these.
    """

    def __init__(
        self,
        header: Header,
        net: nn.Module,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> None:
        self.header = header
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self.codec = build_header_codec(header)
        net = net.eval().requires_grad_(False).to(self.device)
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.denoiser = build_denoiser(header, net)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = DEFAULT_MODEL,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> RestorationPipeline:
        """Load weights: a released name, a ``.safetensors`` file, or a folder with exactly one.

        Raises:
            AMDRestoreError: no such weights, a damaged file, or a device or dtype that is not there.
        """
        header, state_dict = load_checkpoint(resolve_weights(name_or_path))
        return cls(header, build_network(header, state_dict), device, dtype)

    @property
    def scale(self) -> int:
        """Output pixels per input pixel, along each axis."""
        return self.header.scale

    def reach(self, num_steps: int) -> int | None:
        """How far, in lq pixels, a result depends on its surroundings; None when on the whole image.

        A halo of at least this makes tiled and untiled results the same.
        """
        radius = getattr(self.denoiser.net, "radius", None)
        return None if radius is None else radius * num_steps * self.codec.lq_patch

    @torch.no_grad()  # what comes out is an ordinary tensor; inside, inference_mode
    def __call__(
        self,
        lq: Tensor,
        *,
        num_steps: int | None = None,
        seed: int = 0,
        tile: int | None = None,
        halo: int = DEFAULT_HALO,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Restore a batch of images.

        Sides may have any size from 1; they are padded inside by repeating the border and cropped back. Image
        i of the batch gets the noise of ``seed + i``, so it comes out as if it had been restored alone with
        that seed. The noise depends on seed and position only, neither on the tiles nor on the device.

        Args:
            lq: (B, 3, H, W), RGB, floating, in [0, 1], on any device.
            num_steps: network evaluations; None takes the model's default.
            seed: names the noise.
            tile: largest side of a tile in lq pixels, its halo not counted; None tiles only what is larger
                than 512 pixels, 0 never tiles.
            halo: lq pixels that a tile sees beyond its borders. From :meth:`reach` on, tiles change nothing.
            progress: called as ``progress(done, total)`` after every tile.

        Returns:
            (B, 3, scale H, scale W), float32 in [0, 1], on the device of ``lq``.

        Raises:
            AMDRestoreError: an argument out of its range, too little memory, or a result that is not finite.
        """
        num_steps = self.header.default_steps if num_steps is None else num_steps
        if num_steps < 1:
            raise AMDRestoreError(f"the number of steps must be at least 1, got {num_steps}")
        if tile is not None and tile < 0:
            raise AMDRestoreError(f"tile must be 0 (none) or a number of pixels, got {tile}")
        _check_image(lq)
        height, width = lq.shape[2:]
        padded = self._pad(lq.float())
        longest = max(padded.shape[2:])
        if tile is None:
            tile = AUTO_TILE
        tile = longest if tile == 0 else min(tile, longest)
        rows, columns = (plan_axis(side, tile, halo, self.codec.lq_patch) for side in padded.shape[2:])
        blend = blend_width(halo, self.reach(num_steps))

        def restore(window: Tensor, top: int, left: int) -> Tensor:
            return self._restore_window(window, top, left, num_steps, seed)

        with _memory_errors():
            sr = restore_tiled(restore, padded, self.scale, rows, columns, blend, progress)
        sr = sr[:, :, : height * self.scale, : width * self.scale]
        if not torch.isfinite(sr).all():
            raise AMDRestoreError("the network's answer is not finite; try dtype float32, else the weights are damaged")
        return sr.clamp_(0, 1)

    def restore_image(self, image: np.ndarray[Any, Any], **options: Any) -> np.ndarray[Any, Any]:
        """Restore a numpy image; what goes in comes out: gray stays gray, alpha alpha, 16 bits 16 bits.

        Gray is restored as RGB and its luma returned. Alpha is enlarged by bicubic interpolation; fully
        transparent pixels first take the colour of their visible surroundings, so that nothing hidden bleeds
        into the edge.

        Args:
            image: (H, W) or (H, W, C) in RGB order, C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha;
                uint8, uint16, or floating in [0, 1].
            options: those of :meth:`__call__`.

        Returns:
            (scale H, scale W) or (scale H, scale W, C) of the dtype of ``image``.

        Raises:
            AMDRestoreError: another shape or dtype, or as :meth:`__call__`.
        """
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 2, 3, 4)):
            raise AMDRestoreError(f"an image must be (H, W) or (H, W, 1 to 4 channels), not {image.shape}")
        if image.dtype not in (np.uint8, np.uint16) and image.dtype.kind != "f":
            raise AMDRestoreError(f"an image must be uint8, uint16 or floating, not {image.dtype}")
        if image.size == 0:
            raise AMDRestoreError(f"the image is empty: {image.shape}")
        highest = 1.0 if image.dtype.kind == "f" else float(np.iinfo(image.dtype).max)
        planes = np.atleast_3d(image).astype(np.float32) / highest
        has_alpha = planes.shape[2] in (2, 4)
        colour, alpha = (planes[..., :-1], planes[..., -1:]) if has_alpha else (planes, None)
        gray = colour.shape[2] == 1
        if alpha is not None:
            colour = fill_transparent(colour, alpha)
        lq = torch.from_numpy(np.ascontiguousarray(colour)).permute(2, 0, 1)[None]
        sr = self(lq.expand(-1, 3, -1, -1), **options)
        if gray:
            sr = (sr * sr.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        if alpha is not None:
            upsampled = self.codec.upsample(torch.from_numpy(np.ascontiguousarray(alpha)).permute(2, 0, 1)[None])
            sr = torch.cat([sr, upsampled.clamp(0, 1)], dim=1)
        if highest > 1:
            sr = sr.mul_(highest).round_()  # in place: a large photograph takes gigabytes here
        out: np.ndarray[Any, Any] = sr[0].permute(1, 2, 0).numpy()
        return out.astype(image.dtype).reshape(*out.shape[:2], *image.shape[2:])

    @torch.inference_mode()
    def _restore_window(self, window: Tensor, top: int, left: int, num_steps: int, seed: int) -> Tensor:
        """Restore (B, 3, h, w) that lies at (top, left) of the whole image; not clamped."""
        window = window.to(self.device)
        count, channels, height, width = self.codec.latent_shape(window)
        top, left = top // self.codec.lq_patch, left // self.codec.lq_patch

        def draw(step: int) -> Tensor:
            noise = [field_noise(seed + i, channels, top, left, height, width, step) for i in range(count)]
            return torch.cat(noise).to(self.device, memory_format=torch.channels_last)

        cond = self.codec.condition(window).to(memory_format=torch.channels_last)
        fresh_noise = draw if self.header.sampler == "renoise" else None
        # Only the network runs in low precision; the denoiser converts and the codec adds in float32.
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            x0 = sample(self.denoiser, draw(0), cond, num_steps, 1.0, fresh_noise, self.header.time_shift)
        return self.codec.decode(x0.float(), window)

    def _pad(self, lq: Tensor) -> Tensor:
        """Repeat the right and lower border up to the smallest size and a multiple of the codec's patch."""
        patch = self.codec.lq_patch
        height, width = (-(-max(side, _MIN_SIDE) // patch) * patch for side in lq.shape[2:])
        return F.pad(lq, (0, width - lq.shape[3], 0, height - lq.shape[2]), mode="replicate")


def resolve_device(device: str | torch.device) -> torch.device:
    """The device meant by ``auto`` or by its name.

    Raises:
        AMDRestoreError: it is not there.
    """
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise AMDRestoreError(f"device '{device}' is not available here; use auto or cpu") from error
    return found


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The arithmetic meant by ``auto``: bfloat16 where the hardware multiplies in it, else float32.

    Raises:
        AMDRestoreError: neither ``auto`` nor float32 nor bfloat16.
    """
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(str(dtype), dtype)
    if dtype == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    if dtype not in (torch.float32, torch.bfloat16):
        raise AMDRestoreError(f"dtype must be auto, float32 or bfloat16, not {dtype}")
    assert isinstance(dtype, torch.dtype)
    return dtype


def _check_image(lq: Tensor) -> None:
    if not isinstance(lq, Tensor) or lq.ndim != 4 or lq.shape[1] != 3 or lq.numel() == 0:
        shape = tuple(lq.shape) if isinstance(lq, Tensor) else type(lq).__name__
        raise AMDRestoreError(f"lq must be a tensor of shape (B, 3, H, W), not {shape}")
    if not lq.is_floating_point():
        raise AMDRestoreError(f"lq must be floating, in [0, 1], not {lq.dtype}; divide bytes by 255")
    low, high = (float(x) for x in lq.aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also catches NaN
        raise AMDRestoreError(f"lq must lie in [0, 1], but spans {low:.3g} to {high:.3g}")


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    """Say what helps when memory runs out, whichever way the device puts it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        wordings = ("allocate memory", "out of memory")
        if not isinstance(error, MemoryError) and not any(wording in str(error) for wording in wordings):
            raise
        raise AMDRestoreError("out of memory; use tiles (or smaller ones): tile=256 or less") from error
