"""From a whole image to its restored rows: the tiles that fit into memory, and their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from amd_restore.arrays import Array
from amd_restore.diffusion import cell_side
from amd_restore.inference import memory
from amd_restore.inference.call_options import CallOptions, memory_errors
from amd_restore.inference.flaws import check_restored
from amd_restore.inference.tiling import blend_width, finish_bands, plan_axis, restore_bands
from amd_restore.inference.window import PROBE_SIDE, WindowRestorer

Window = Callable[[int, int, int, int], Array]  # top, bottom, left, right -> (B, 3, h, w) in [0, 1]


@dataclass(frozen=True)
class Source:
    """Images of one size, and what is kept of them.

    Args:
        window: cuts windows, up to the padded size, see :func:`~amd_restore.diffusion.cell_side`.
        count: images.
        height, width: in lq pixels.
        kept: bytes that stay in memory whatever the tiles.
        rows_like: rows are put together as arrays of its kind, on its device.
    """

    window: Window
    count: int
    height: int
    width: int
    kept: int
    rows_like: Array


def restore_rows(restorer: WindowRestorer, source: Source, options: CallOptions) -> Iterator[Array]:
    """Plan the tiles, and start.

    Returns:
        Rows of the output from top to bottom, (count, 3, n, scale width) in [0, 1].

    Raises:
        AMDRestoreError: an option does not fit the images, or too little memory.
    """
    scale, lq_patch = restorer.header.scale, restorer.codec.lq_patch
    windows = options.of_windows(restorer.header.default_steps, source.count)
    halo = restorer.halo(windows.num_steps) if options.halo is None else int(options.halo)
    reaches = [restorer.reach(windows.num_steps)]
    if windows.fidelity and restorer.header.mean:
        reaches.append(restorer.mean().reach(1))
    known = [reach for reach in reaches if reach is not None]
    blend = blend_width(halo, max(known) if len(known) == len(reaches) else None)
    halo += options.post.halo if options.post else 0
    padded = cell_side(source.height, lq_patch), cell_side(source.width, lq_patch)
    sides = _tile_sides(restorer, source, options, padded, halo)
    align = lq_patch * restorer.net.multiple
    rows, columns = (plan_axis(side, tile, halo, align) for side, tile in zip(padded, sides, strict=True))

    def restore(top: int, bottom: int, left: int, right: int) -> Array:
        window = source.window(top, bottom, left, right)
        with memory_errors():
            sr = restorer(window, top, left, windows)
        check_restored(sr, window)
        return sr

    bands = restore_bands(restore, source.count, scale, rows, columns, blend, source.rows_like, options.progress)
    return finish_bands(bands, source.height * scale, source.width * scale)


def _tile_sides(
    restorer: WindowRestorer, source: Source, options: CallOptions, size: tuple[int, int], halo: int
) -> tuple[int, int]:
    """Height and width of the tiles."""
    if options.tile is not None:
        return (int(options.tile), int(options.tile)) if options.tile else size
    if options.max_memory is None and source.count * size[0] * size[1] <= PROBE_SIDE**2:
        return size  # Too small for tiles to save anything.
    with memory_errors():
        job = memory.Workload(*size, source.count, restorer.header.scale, halo, restorer.bytes_per_pixel, source.kept)
    sides = memory.plan_tile(job, restorer.device, options.max_memory, restorer.resident)
    return min(sides[0], size[0]), min(sides[1], size[1])
