"""Noise as a function of absolute coordinates, so that tiles of one image agree where they overlap.

The numbers are those of torch's generator on the CPU: MT19937 seeded by 32 bits, then Box and Muller's method. Drawn by
NumPy they are the same but for the last digits of logarithm and cosine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from amd_restore.arrays import HostArray

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32  # latent cells; a block is drawn whole, so this bounds the waste at a window's border
_BLOCKS_PER_THREAD = 16  # fewer are not worth starting one
_LANES = 8  # torch pairs each number with the one that many places after it

_Place = tuple[int, int, int, int]  # image in the batch, seed of its field, row and column of the block
_Draw = Callable[[int], HostArray]  # seed of a block -> its numbers (channels, BLOCK, BLOCK); may use memory again


def field_noise(
    seed: int | Sequence[int], channels: int, top: int, left: int, height: int, width: int, step: int = 0
) -> Tensor:
    """Window of an endless field of standard normal noise.

    Args:
        seed: names the field; any two windows of one field agree where they overlap. Several give a batch.
        channels: channels of a latent cell.
        top, left: position of the window in latent cells (may be negative).
        height, width: its size in latent cells.
        step: one field has an independent layer of noise for each step of a sampler.

    Returns:
        (B, channels, height, width), float32, channels last in memory, on the CPU: the same numbers whatever device
        restores the image and however many threads draw them.
    """
    import torch

    def drawing() -> _Draw:
        block = torch.empty(channels, BLOCK, BLOCK, dtype=torch.float32, device="cpu")
        generator = torch.Generator("cpu")

        def draw(number: int) -> HostArray:
            block.normal_(generator=generator.manual_seed(number))
            return block.numpy()

        return draw

    seeds = [seed] if isinstance(seed, int) else seed
    window = (top, left, height, width)
    return torch.from_numpy(_window(seeds, channels, window, step, drawing, torch.get_num_threads()))


def host_noise(
    seeds: Sequence[int],
    channels: int,
    top: int,
    left: int,
    height: int,
    width: int,
    step: int = 0,
    threads: int = 1,
) -> HostArray:
    """:func:`field_noise` of a batch by NumPy alone, by that many threads."""
    return _window(seeds, channels, (top, left, height, width), step, lambda: _drawing(channels), threads)


def _drawing(channels: int) -> _Draw:
    count = channels * BLOCK * BLOCK

    def draw(number: int) -> HostArray:
        raw = np.frombuffer(np.random.RandomState(number & 0xFFFFFFFF).bytes(4 * count), "<u4")
        uniform = ((raw & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)).reshape(-1, 2, _LANES)
        radius = np.sqrt(np.float32(-2) * np.log(1 - uniform[:, 0]))
        angle = np.float32(2 * math.pi) * uniform[:, 1]
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return pairs.reshape(channels, BLOCK, BLOCK)

    return draw


def _window(
    seeds: Sequence[int],
    channels: int,
    window: tuple[int, int, int, int],
    step: int,
    drawing: Callable[[], _Draw],
    threads: int,
) -> HostArray:
    """The window (top, left, height, width), put together from blocks; ``drawing`` is called once for each thread."""
    top, left, height, width = window
    out = np.empty((len(seeds), height, width, channels), np.float32)

    def fill(places: Sequence[_Place]) -> None:
        draw = drawing()
        for image, field, row, col in places:
            drawn = draw(_mixed(field, row, col)).transpose(1, 2, 0)
            y0, x0 = row * BLOCK, col * BLOCK
            ya, yb = max(top, y0), min(top + height, y0 + BLOCK)
            xa, xb = max(left, x0), min(left + width, x0 + BLOCK)
            inside = drawn[ya - y0 : yb - y0, xa - x0 : xb - x0]
            out[image, ya - top : yb - top, xa - left : xb - left] = inside

    rows = range(top // BLOCK, (top + height - 1) // BLOCK + 1)
    columns = range(left // BLOCK, (left + width - 1) // BLOCK + 1)
    fields = [s + step * 0x517CC1B727220A95 for s in seeds]  # far from the seeds that people and batches use
    places = [(image, field, row, col) for (image, field), row, col in product(enumerate(fields), rows, columns)]
    threads = min(threads, len(places) // _BLOCKS_PER_THREAD)
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, (places[first::threads] for first in range(threads))))
    else:
        fill(places)
    return out.transpose(0, 3, 1, 2)


def _mixed(seed: int, row: int, col: int) -> int:
    """Seed of a block: splitmix-style mixing keeps neighbouring blocks and seeds unrelated."""
    mixed = (seed * 0x9E3779B97F4A7C15 + row * 0xBF58476D1CE4E5B9 + col * 0x94D049BB133111EB) & (2**64 - 1)
    mixed ^= mixed >> 31
    mixed = (mixed * 0xD6E8FEB86659FD93) & (2**64 - 1)
    mixed ^= mixed >> 32
    return mixed & (2**63 - 1)
