"""Noise as a function of absolute coordinates, so that tiles of one image agree where they overlap."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 32  # latent cells; a block is drawn whole, so this bounds the waste at a window's border


def _block(seed: int, channels: int, row: int, col: int) -> Tensor:
    # Distinct seeds per block: splitmix-style mixing keeps neighbouring blocks and seeds unrelated.
    mixed = (seed * 0x9E3779B97F4A7C15 + row * 0xBF58476D1CE4E5B9 + col * 0x94D049BB133111EB) & (2**64 - 1)
    mixed ^= mixed >> 31
    mixed = (mixed * 0xD6E8FEB86659FD93) & (2**64 - 1)
    mixed ^= mixed >> 32
    generator = torch.Generator().manual_seed(mixed & (2**63 - 1))
    return torch.randn(channels, BLOCK, BLOCK, generator=generator)


def field_noise(seed: int, channels: int, top: int, left: int, height: int, width: int, step: int = 0) -> Tensor:
    """Window of an endless field of standard normal noise.

    Args:
        seed: names the field; any two windows of one field agree where they overlap.
        channels: channels of a latent cell.
        top, left: position of the window in latent cells (may be negative).
        height, width: its size in latent cells.
        step: one field has an independent layer of noise for each step of a sampler.

    Returns:
        (1, channels, height, width), float32, on the CPU: the same numbers whatever device restores the image.
    """
    seed += step * 0x517CC1B727220A95  # far from the seeds that people and batches use
    out = torch.empty(1, channels, height, width)
    for row in range(top // BLOCK, (top + height - 1) // BLOCK + 1):
        for col in range(left // BLOCK, (left + width - 1) // BLOCK + 1):
            y0, x0 = row * BLOCK, col * BLOCK
            ya, yb = max(top, y0), min(top + height, y0 + BLOCK)
            xa, xb = max(left, x0), min(left + width, x0 + BLOCK)
            block = _block(seed, channels, row, col)
            out[0, :, ya - top : yb - top, xa - left : xb - left] = block[:, ya - y0 : yb - y0, xa - x0 : xb - x0]
    return out
