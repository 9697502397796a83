"""Operations that torch tensors and NumPy arrays name differently: each takes either, and returns the same kind.

Restoring needs few operations besides arithmetic, so one code serves both: tensors on any device, and NumPy arrays
where another runtime than torch computes the network. This module imports torch only when it is given a tensor.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    # Methods are checked as torch's: what the code uses of them, NumPy's arrays have too, under the same names.
    Array = Tensor | Any
else:
    Array = Any

HostArray = np.ndarray[Any, Any]
P = ParamSpec("P")
R = TypeVar("R")


def is_array(value: object) -> bool:
    """Return whether ``value`` is a tensor or an array."""
    torch = sys.modules.get("torch")
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))


def is_floating(x: Array) -> bool:
    """Return whether ``x`` holds floats."""
    return x.dtype.kind == "f" if isinstance(x, np.ndarray) else x.is_floating_point()


def host(x: Array) -> HostArray:
    """``x`` as a NumPy array; shares memory where it can."""
    return x if isinstance(x, np.ndarray) else x.detach().cpu().numpy()


def like(values: HostArray, other: Array) -> Array:
    """``values`` as an array of the kind and on the device of ``other``; keeps its own dtype."""
    if isinstance(other, np.ndarray):
        return values
    import torch

    return torch.from_numpy(values).to(other.device)


def placed(x: Array, other: Array, copy: bool = False) -> Array:
    """``x`` as float32 of the kind and on the device of ``other``; ``copy`` makes it independent of ``x``."""
    if isinstance(other, np.ndarray):
        return np.array(host(x), np.float32, copy=copy or None)
    import torch

    return (torch.from_numpy(x) if isinstance(x, np.ndarray) else x).to(other.device, torch.float32, copy=copy)


def cast(x: Array, other: Array) -> Array:
    """``x`` in the dtype and on the device of ``other``."""
    if isinstance(x, np.ndarray):
        return x.astype(host(other).dtype, copy=False)
    return x.to(other)


def floats(x: Array) -> Array:
    """``x`` in float32."""
    return x.astype(np.float32, copy=False) if isinstance(x, np.ndarray) else x.float()


def doubles(x: Array) -> Array:
    """``x`` in float64."""
    return x.astype(np.float64) if isinstance(x, np.ndarray) else x.double()


def zeros(shape: Sequence[int], other: Array) -> Array:
    """Zeros in float32, of the kind and on the device of ``other``."""
    if isinstance(other, np.ndarray):
        return np.zeros(shape, np.float32)
    import torch

    return torch.zeros(tuple(shape), dtype=torch.float32, device=other.device)


def device_of(x: Array) -> torch.device | None:
    """The device of a tensor; None for NumPy arrays."""
    return None if isinstance(x, np.ndarray) else x.device


def falling(count: int, device: torch.device | str | None) -> Array:
    """``count`` evenly spaced numbers from 1 to 0, float32, on ``device``; None is a NumPy array."""
    if device is None:
        return np.linspace(1.0, 0.0, count, dtype=np.float32)
    import torch

    return torch.linspace(1.0, 0.0, count, dtype=torch.float32, device=device)


def ones_like(x: Array) -> Array:
    """Ones of the shape, kind and dtype of ``x``."""
    return np.ones_like(x) if isinstance(x, np.ndarray) else x.new_ones(x.shape)


def copied(x: Array) -> Array:
    """A copy with memory of its own."""
    return x.copy() if isinstance(x, np.ndarray) else x.clone()


def broadcast(x: Array, shape: Sequence[int]) -> Array:
    """``x`` repeated to ``shape``, without a copy."""
    return np.broadcast_to(x, shape) if isinstance(x, np.ndarray) else x.expand(*shape)


def where(condition: Array, x: Array, y: Array) -> Array:
    """``x`` where ``condition``, else ``y``."""
    if isinstance(condition, np.ndarray):
        return np.where(condition, x, y)
    import torch

    return torch.where(condition, x, y)


def lerp(x: Array, y: Array, weight: float) -> Array:
    """``x`` at weight 0, ``y`` at 1, and the line between."""
    if isinstance(x, np.ndarray):
        return x + weight * (y - x)
    import torch

    return torch.lerp(x, y, weight)


def clip_(x: Array, low: float, high: float) -> Array:
    """Limit ``x`` in place, and return it."""
    return np.clip(x, low, high, out=x) if isinstance(x, np.ndarray) else x.clamp_(low, high)


def extremes(x: Array) -> tuple[HostArray, HostArray]:
    """Smallest and largest value of each image of (B, C, H, W), each (B,) on the host; NaN where there is one."""
    axes = (1, 2, 3)
    if isinstance(x, np.ndarray):
        return x.min(axes), x.max(axes)
    return host(x.amin(axes).float()), host(x.amax(axes).float())


def concatenate(parts: Sequence[Array], axis: int) -> Array:
    """Join ``parts`` along ``axis``."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, axis)
    import torch

    return torch.cat(list(parts), axis)


def take(x: Array, index: HostArray, axis: int) -> Array:
    """Rows of ``x`` along ``axis``, by their numbers."""
    if isinstance(x, np.ndarray):
        return x.take(index, axis)
    return x.index_select(axis, like(index, x))


def quarter_turns(x: Array, count: int) -> Array:
    """(B, C, H, W) turned ``count`` times by 90 degrees."""
    if isinstance(x, np.ndarray):
        return np.rot90(x, count, (2, 3))
    import torch

    return torch.rot90(x, count, (2, 3))


def mirrored(x: Array) -> Array:
    """(B, C, H, W) with its columns in reverse."""
    return x[..., ::-1] if isinstance(x, np.ndarray) else x.flip(3)


def channels_first(x: Array) -> Array:
    """(B, C, h, w) of (B, h, w, C), without a copy."""
    return x.transpose(0, 3, 1, 2) if isinstance(x, np.ndarray) else x.permute(0, 3, 1, 2)


def channels_last_memory(x: Array) -> Array:
    """``x`` (B, C, h, w) as torch's convolutions prefer it in memory; NumPy arrays as they are."""
    if isinstance(x, np.ndarray):
        return x
    import torch

    return x.to(memory_format=torch.channels_last)


def shuffle(x: Array, factor: int) -> Array:
    """(B, C factor^2, h, w) -> (B, C, factor h, factor w), see :class:`torch.nn.PixelShuffle`."""
    if isinstance(x, np.ndarray):
        count, channels, height, width = x.shape
        cells = x.reshape(count, channels // factor**2, factor, factor, height, width).transpose(0, 1, 4, 2, 5, 3)
        return cells.reshape(count, channels // factor**2, factor * height, factor * width)
    from torch.nn import functional as F

    return F.pixel_shuffle(x, factor)


def unshuffle(x: Array, factor: int) -> Array:
    """Inverse of :func:`shuffle`."""
    if isinstance(x, np.ndarray):
        count, channels, height, width = x.shape
        cells = x.reshape(count, channels, height // factor, factor, width // factor, factor)
        return cells.transpose(0, 1, 3, 5, 2, 4).reshape(count, channels * factor**2, height // factor, width // factor)
    from torch.nn import functional as F

    return F.pixel_unshuffle(x, factor)


def pad_edges(x: Array, top: int, bottom: int, left: int, right: int) -> Array:
    """(B, C, H, W) with its border repeated."""
    if isinstance(x, np.ndarray):
        return np.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right)], mode="edge")
    from torch.nn import functional as F

    return F.pad(x, (left, right, top, bottom), mode="replicate")


def correlate(x: Array, kernel: HostArray, axis: int, stride: int = 1, dilation: int = 1) -> Array:
    """Weighted sum of neighbours along one axis, where all of them exist.

    Args:
        x: (B, C, H, W), floating.
        kernel: the weights, float32.
        axis: 2 or 3.
        stride: distance of neighbouring outputs.
        dilation: distance of neighbouring weights.
    """
    if isinstance(x, np.ndarray):
        count = (x.shape[axis] - dilation * (len(kernel) - 1) - 1) // stride + 1
        out = np.zeros((), np.float32)
        for place, weight in zip(range(0, dilation * len(kernel), dilation), kernel, strict=True):
            part = slice(place, place + stride * (count - 1) + 1, stride)
            out = out + weight * (x[:, :, part] if axis == 2 else x[:, :, :, part])
        return out
    from torch.nn import functional as F

    shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
    pair = (lambda n: (n, 1)) if axis == 2 else (lambda n: (1, n))
    weights = cast(like(kernel, x), x).view(shape)
    planes = F.conv2d(x.flatten(0, 1)[:, None], weights, stride=pair(stride), dilation=pair(dilation))
    return planes[:, 0].unflatten(0, x.shape[:2])


def autocast(x: Array, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Arithmetic of a network that is given ``x``; None is float32.

    Float32 enters no context: a disabled autocast would switch that of a caller off.
    """
    if dtype is None or isinstance(x, np.ndarray):
        return contextlib.nullcontext()
    import torch

    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(x.device.type, dtype)


def no_grad(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator ``torch.no_grad``, where torch is used at all."""
    return _in_context(function, "no_grad")


def inference_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator ``torch.inference_mode``, where torch is used at all."""
    return _in_context(function, "inference_mode")


def _in_context(function: Callable[P, R], name: str) -> Callable[P, R]:
    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        torch = sys.modules.get("torch")
        with getattr(torch, name)() if torch else contextlib.nullcontext():
            return function(*args, **kwargs)

    return wrapped
