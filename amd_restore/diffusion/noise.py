"""Noise as a function of absolute coordinates, so that tiles of one image agree where they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import torch
from torch import Tensor

BLOCK = 32  # latent cells; a block is drawn whole, so this bounds the waste at a window's border
_BLOCKS_PER_THREAD = 16  # fewer are not worth starting one

_Place = tuple[int, int, int, int]  # image in the batch, seed of its field, row and column of the block


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
    seeds = [seed] if isinstance(seed, int) else seed
    out = torch.empty(len(seeds), height, width, channels, dtype=torch.float32, device="cpu")
    # NumPy copies, since torch would start threads of its own for each block.
    pixels = out.numpy()

    def draw(places: Sequence[_Place]) -> None:
        block = torch.empty(channels, BLOCK, BLOCK, dtype=torch.float32, device="cpu")
        generator = torch.Generator("cpu")
        drawn = block.numpy().transpose(1, 2, 0)
        for image, field, row, col in places:
            block.normal_(generator=generator.manual_seed(_mixed(field, row, col)))
            y0, x0 = row * BLOCK, col * BLOCK
            ya, yb = max(top, y0), min(top + height, y0 + BLOCK)
            xa, xb = max(left, x0), min(left + width, x0 + BLOCK)
            inside = drawn[ya - y0 : yb - y0, xa - x0 : xb - x0]
            pixels[image, ya - top : yb - top, xa - left : xb - left] = inside

    rows = range(top // BLOCK, (top + height - 1) // BLOCK + 1)
    columns = range(left // BLOCK, (left + width - 1) // BLOCK + 1)
    fields = [s + step * 0x517CC1B727220A95 for s in seeds]  # far from the seeds that people and batches use
    places = [(image, field, row, col) for (image, field), row, col in product(enumerate(fields), rows, columns)]
    threads = min(torch.get_num_threads(), len(places) // _BLOCKS_PER_THREAD)
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(draw, (places[first::threads] for first in range(threads))))
    else:
        draw(places)
    return out.permute(0, 3, 1, 2)


def _mixed(seed: int, row: int, col: int) -> int:
    """Seed of a block: splitmix-style mixing keeps neighbouring blocks and seeds unrelated."""
    mixed = (seed * 0x9E3779B97F4A7C15 + row * 0xBF58476D1CE4E5B9 + col * 0x94D049BB133111EB) & (2**64 - 1)
    mixed ^= mixed >> 31
    mixed = (mixed * 0xD6E8FEB86659FD93) & (2**64 - 1)
    mixed ^= mixed >> 32
    return mixed & (2**63 - 1)
