"""Overlapping tiles: where they lie, how they are blended, and the loop. Sizes are in pixels of ``lq``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from amd_restore.arrays import Array, HostArray, clip_, concatenate, copied, like, placed, zeros
from amd_restore.errors import AMDRestoreError


@dataclass(frozen=True)
class Span:
    """One tile along one axis.

    Args:
        start, stop: what the tile is responsible for; the spans of an axis lie end to end.
        outer_start, outer_stop: what it is computed from, the halo included.
    """

    start: int
    stop: int
    outer_start: int
    outer_stop: int


def plan_axis(length: int, tile: int, halo: int, align: int = 1) -> list[Span]:
    """Tiles along an axis, of nearly equal size.

    Args:
        length: of the axis.
        tile: largest size without halo.
        halo: margin to each side, in which tiles overlap their neighbours; ends at the border of the image.
        align: every start is a multiple of this.

    Raises:
        AMDRestoreError: ``tile`` is smaller than ``align``, or ``halo`` negative.
    """
    if tile < align:
        raise AMDRestoreError(f"tile must be at least {align}, got {tile}")
    if halo < 0:
        raise AMDRestoreError(f"halo must not be negative, got {halo}")
    cells = -(-length // align)
    count = 1 if tile >= length else -(-cells // (tile // align))
    edges = [align * (i * cells // count) for i in range(count)] + [length]
    halo = -(-halo // align) * align
    return [
        Span(start, stop, max(start - halo, 0), min(stop + halo, length))
        for start, stop in zip(edges[:-1], edges[1:], strict=True)
    ]


def blend_weights(spans: list[Span], blend: int, scale: int) -> list[HostArray]:
    """Weights of the tiles along an axis; at every pixel they add up to one.

    Each inner edge is crossed by a linear ramp from ``blend`` before it to ``blend`` behind it, and a tile's
    weight is the difference of the ramps at its two ends: a partition of unity whatever the sizes.

    Args:
        spans: of :func:`plan_axis`.
        blend: half width of the ramps, at most the halo; 0 cuts hard.
        scale: output pixels per pixel of ``lq``.

    Returns:
        For each span a float32 array of ``scale`` times its outer size.
    """
    length = spans[-1].stop

    def ramp(edge: int, span: Span) -> HostArray:
        centre = (np.arange(span.outer_start * scale, span.outer_stop * scale, dtype=np.float32) + 0.5) / scale
        if edge == 0:
            return np.ones_like(centre)
        if edge == length:
            return np.zeros_like(centre)
        if blend == 0:
            return (centre > edge).astype(np.float32)
        return ((centre - (edge - blend)) / (2 * blend)).clip(0, 1)

    edges = [spans[0].start, *(span.stop for span in spans)]
    return [ramp(edges[i], span) - ramp(edges[i + 1], span) for i, span in enumerate(spans)]


def blend_width(halo: int, reach: int | None) -> int:
    """Half width of the blend between tiles.

    Args:
        halo: margin of a tile.
        reach: how far a result depends on its surroundings; None when it depends on everything.

    Returns:
        0 when the halo covers the reach (neighbours agree exactly, so the edge may be cut hard), else half
        the halo: in the outer half too little of the surroundings is known.
    """
    return 0 if reach is not None and halo >= reach else halo // 2


def restore_bands(
    restore: Callable[[int, int, int, int], Array],
    count: int,
    scale: int,
    rows: list[Span],
    columns: list[Span],
    blend: int,
    rows_like: Array,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Array]:
    """Restore tile by tile, blend, and hand over rows from top to bottom as soon as no tile can change them.

    One tile at a time passes through the network; beside it only one row of tiles is in memory.

    Args:
        restore: called as ``restore(top, bottom, left, right)`` with a window of ``lq``; returns
            (count, 3, scale h, scale w) on any device.
        count: images in the batch.
        scale: of ``restore``.
        rows, columns: plans of the two axes.
        blend: see :func:`blend_weights`.
        rows_like: the rows are of its kind and on its device.
        progress: called as ``progress(done, total)`` after every tile.

    Yields:
        The next rows of the output, (count, 3, n, scale W), float32; the caller may change them.
    """
    if len(rows) == len(columns) == 1:
        whole = placed(restore(0, rows[0].stop, 0, columns[0].stop), rows_like, copy=True)
        if progress is not None:
            progress(1, 1)
        yield whole
        return
    row_weights, column_weights = blend_weights(rows, blend, scale), blend_weights(columns, blend, scale)
    done, finished = 0, 0  # finished: rows of lq whose output nothing will change
    pending = zeros((count, 3, 0, columns[-1].stop * scale), rows_like)  # what tiles to come will add to
    for i, (row, row_weight) in enumerate(zip(rows, row_weights, strict=True)):
        # Beyond the blend a tile has no weight.
        top, bottom = max(row.start - blend, row.outer_start), min(row.stop + blend, row.outer_stop)
        missing = (bottom - finished) * scale - pending.shape[2]
        band = concatenate([pending, zeros((count, 3, missing, pending.shape[3]), rows_like)], axis=2)
        for column, column_weight in zip(columns, column_weights, strict=True):
            left, right = max(column.start - blend, column.outer_start), min(column.stop + blend, column.outer_stop)
            tile = restore(row.outer_start, row.outer_stop, column.outer_start, column.outer_stop)
            inside = _scaled(top - row.outer_start, bottom - row.outer_start, scale)
            across = _scaled(left - column.outer_start, right - column.outer_start, scale)
            weighted = placed(tile[:, :, inside, across], rows_like)
            weighted = weighted * like(row_weight[inside, None] * column_weight[across], rows_like)
            band[:, :, _scaled(top - finished, bottom - finished, scale), _scaled(left, right, scale)] += weighted
            done += 1
            if progress is not None:
                progress(done, len(rows) * len(columns))
        complete = bottom if i + 1 == len(rows) else max(rows[i + 1].start - blend, 0)
        cut = (complete - finished) * scale
        pending, finished = copied(band[:, :, cut:]), complete
        if cut:
            yield band[:, :, :cut]
        del band


def _scaled(start: int, stop: int, scale: int) -> slice:
    return slice(start * scale, stop * scale)


def window_of(lq: Array) -> Callable[[int, int, int, int], Array]:
    """Cuts windows (B, C, bottom - top, right - left) out of ``lq`` (B, C, H, W)."""
    return lambda top, bottom, left, right: lq[:, :, top:bottom, left:right]


def finish_bands(bands: Iterator[Array], height: int, width: int) -> Iterator[Array]:
    """Crop bands of a padded output to ``height`` x ``width`` and clamp them to [0, 1]."""
    done = 0
    for band in bands:
        band = band[:, :, : height - done, :width]
        done += band.shape[2]
        if band.shape[2] == 0:
            return
        yield clip_(band, 0, 1)


def collect_bands(bands: Iterator[Array], count: int, height: int) -> Array:
    """Join the bands of ``count`` images to (count, 3, height, W); a single band is passed on uncopied."""
    first = next(bands)
    if first.shape[2] == height:
        return first
    out = zeros((count, 3, height, first.shape[3]), first)
    done = 0
    for band in itertools.chain([first], bands):
        out[:, :, done : done + band.shape[2]] = band
        done += band.shape[2]
    return out
