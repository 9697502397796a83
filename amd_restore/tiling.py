"""Overlapping tiles: where they lie, how they are blended, and the loop. Sizes are in pixels of ``lq``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from amd_restore.errors import AMDRestoreError


@dataclass(frozen=True)
class Span:
    """One tile along one axis.

    Args:
        start, stop: what the tile is responsible for; the spans of an axis lie end to end.
        outer_start, outer_stop: what it sees, the halo included.
    """

    start: int
    stop: int
    outer_start: int
    outer_stop: int


def plan_axis(length: int, tile: int, halo: int, align: int = 1) -> list[Span]:
    """Tiles along an axis, of nearly equal size.

    Args:
        length: of the axis; a multiple of ``align``.
        tile: largest size without halo.
        halo: what a tile sees of its neighbours, to each side; ends at the border of the image.
        align: every start and stop is a multiple of this.

    Raises:
        AMDRestoreError: ``tile`` is smaller than ``align``, or ``halo`` negative.
    """
    if tile < align:
        raise AMDRestoreError(f"tile must be at least {align}, got {tile}")
    if halo < 0:
        raise AMDRestoreError(f"halo must not be negative, got {halo}")
    cells = length // align
    count = -(-cells // (tile // align))
    edges = [align * (i * cells // count) for i in range(count + 1)]
    halo = -(-halo // align) * align
    return [
        Span(start, stop, max(start - halo, 0), min(stop + halo, length))
        for start, stop in zip(edges[:-1], edges[1:], strict=True)
    ]


def blend_weights(spans: list[Span], blend: int, scale: int) -> list[Tensor]:
    """Weights of the tiles along an axis; at every pixel they add up to one.

    Each inner edge is crossed by a linear ramp from ``blend`` before it to ``blend`` behind it, and a tile's
    weight is the difference of the ramps at its two ends: a partition of unity whatever the sizes.

    Args:
        spans: of :func:`plan_axis`.
        blend: half width of the ramps, at most the halo; 0 cuts hard.
        scale: output pixels per pixel of ``lq``.

    Returns:
        For each span a float32 tensor of ``scale`` times its outer size.
    """
    length = spans[-1].stop

    def ramp(edge: int) -> Tensor:
        centre = (torch.arange(length * scale) + 0.5) / scale
        if edge == 0:
            return torch.ones_like(centre)
        if edge == length:
            return torch.zeros_like(centre)
        if blend == 0:
            return (centre > edge).float()
        return ((centre - (edge - blend)) / (2 * blend)).clamp(0, 1)

    ramps = [ramp(spans[0].start)] + [ramp(span.stop) for span in spans]
    return [
        (ramps[i] - ramps[i + 1])[span.outer_start * scale : span.outer_stop * scale] for i, span in enumerate(spans)
    ]


def blend_width(halo: int, reach: int | None) -> int:
    """Half width of the blend between tiles.

    Args:
        halo: what a tile sees of its neighbours.
        reach: how far a result depends on its surroundings; None when it depends on everything.

    Returns:
        0 when the halo covers the reach (neighbours agree exactly, so the edge may be cut hard), else half
        the halo: the outer half is where a tile knows too little.
    """
    return 0 if reach is not None and halo >= reach else halo // 2


def restore_tiled(
    restore: Callable[[Tensor, int, int], Tensor],
    lq: Tensor,
    scale: int,
    rows: list[Span],
    columns: list[Span],
    blend: int,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Restore tile by tile and blend; only one tile at a time passes through the network.

    Args:
        restore: called as ``restore(window, top, left)`` with (B, 3, h, w) and its position; answers with
            (B, 3, scale h, scale w) on any device.
        lq: (B, 3, H, W).
        scale: of ``restore``.
        rows, columns: plans of the two axes.
        blend: see :func:`blend_weights`.
        progress: called as ``progress(done, total)`` after every tile.

    Returns:
        (B, 3, scale H, scale W), on the device of ``lq``.
    """
    out = lq.new_zeros(lq.shape[0], 3, lq.shape[2] * scale, lq.shape[3] * scale)
    row_weights, column_weights = blend_weights(rows, blend, scale), blend_weights(columns, blend, scale)
    tiles = list(product(zip(rows, row_weights, strict=True), zip(columns, column_weights, strict=True)))
    for done, ((row, row_weight), (column, column_weight)) in enumerate(tiles, start=1):
        top, bottom, left, right = row.outer_start, row.outer_stop, column.outer_start, column.outer_stop
        tile = restore(lq[:, :, top:bottom, left:right], top, left).to(out)
        weight = (row_weight[:, None] * column_weight).to(out)
        out[:, :, top * scale : bottom * scale, left * scale : right * scale] += weight * tile
        if progress is not None:
            progress(done, len(tiles))
    return out
