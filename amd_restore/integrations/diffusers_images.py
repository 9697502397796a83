"""Conversion of a diffusers pipeline's inputs to a batch: PIL images, arrays, tensors, and lists of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from amd_restore.errors import AMDRestoreError

ImageInput: TypeAlias = "Image.Image | np.ndarray[Any, Any] | Tensor"
_LOSSLESS_TO_RGB = ("1", "L", "P", "RGB")
_HINT = "RestorationPipeline.restore_image keeps alpha and 16 bits"


def to_batch(image: ImageInput | Sequence[ImageInput]) -> Tensor:
    """Make a batch from one image or several of one size.

    Args:
        image: a PIL image (gray or RGB; palettes without transparency); an array (H, W, 3), (H, W, 1), (H, W) or
            (B, H, W, 3), uint8 or floating in [0, 1]; a tensor (3, H, W) or (B, 3, H, W), floating in [0, 1]; or a
            list of those.

    Returns:
        (B, 3, H, W), float32 in [0, 1].

    Raises:
        AMDRestoreError: another type, shape, mode or range, or images of different sizes.
    """
    images: list[Any] = list(image) if isinstance(image, list | tuple) else [image]
    if not images:
        raise AMDRestoreError("image: an empty list; pass at least one image")
    batches = [_from_one(one) for one in images]
    sizes = sorted({tuple(batch.shape[2:]) for batch in batches})
    if len(sizes) > 1:
        named = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise AMDRestoreError(f"image: a batch needs one size, got {named} (height x width); call once for each size")
    batch = torch.cat([one.to(batches[0].device) for one in batches])
    low, high = (float(value) for value in batch.aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also catches NaN
        raise AMDRestoreError(f"image: values must lie in [0, 1], but span {low:.3g} to {high:.3g}")
    return batch


def _from_one(image: ImageInput) -> Tensor:
    if isinstance(image, Image.Image):
        if image.mode not in _LOSSLESS_TO_RGB or "transparency" in image.info:
            raise AMDRestoreError(
                f"image: mode {image.mode} would lose something as 8-bit RGB; convert it, or: {_HINT}"
            )
        image = np.array(image.convert("RGB"))
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    if not isinstance(image, Tensor):
        raise AMDRestoreError(f"image: PIL, numpy, torch or a list of them is needed, not {type(image).__name__}")
    image = image if image.ndim == 4 else image[None]
    if image.ndim != 4 or image.shape[1] != 3 or image.numel() == 0 or not image.is_floating_point():
        raise AMDRestoreError(
            f"image: a floating tensor of shape (3, H, W) or (B, 3, H, W) is needed, not {tuple(image.shape)} of "
            f"{image.dtype}"
        )
    return image.float()


def _from_array(image: np.ndarray[Any, Any]) -> Tensor:
    shape = image.shape
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[3] not in (1, 3):
        raise AMDRestoreError(f"image: an array of shape (H, W, 3) or (B, H, W, 3) is needed, not {shape}; {_HINT}")
    if image.dtype == np.uint8:
        image = image.astype(np.float32) / 255
    elif not np.issubdtype(image.dtype, np.floating):
        raise AMDRestoreError(f"image: an array of uint8 or floats is needed, not {image.dtype}; {_HINT}")
    pixels = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    return pixels.permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
