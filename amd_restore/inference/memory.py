"""How much memory a restoration takes, and tiles that keep it within a budget. Sizes of memory are in bytes.

A device of None is the machine's own processor, used without torch.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from amd_restore.errors import AMDRestoreError

if TYPE_CHECKING:
    import torch

MIB = 2**20
SHARE = 0.5  # of the memory that is free, when the caller sets no limit; see share_memory
# Python, torch, OpenCV, the weights and what their allocators keep, see benchmarks/2026-11-23_constants.md.
RUNTIME = 384 * MIB
GRAPH_RUNTIME = 192 * MIB  # the same without torch
KEPT = 64 * MIB  # Part of RUNTIME that is added while a pipeline restores: what allocators keep.
OUTPUT_BYTES = 32  # per pixel of a row of tiles: float32 RGB while it is blended, its copies, and what is written

# Bytes per lq pixel that a window takes inside FlatDenoiser, the sampler and the codec: a + b * num_feat, an upper
# envelope of what benchmarks/scripts/memory.py --window measured for windows of 256 to 768 pixels (widths 32 to 96, 1
# and 2 steps; neither steps nor blocks matter). Low precision saves little: noise, state and output stay float32. Where
# convolutions do not read bfloat16, torch unfolds their input, nine values for each, and saves nothing.
_FLAT, _FLAT_BFLOAT16, _FLAT_UNFOLDED = (900.0, 19.0), (1300.0, 6.0), (1350.0, 20.0)
_FLAT_GRAPH = (1250.0, 18.0)  # ONNX Runtime grows with the width, OpenVINO rounds it up.

# Allowed tile sizes. A short list, so that similar machines choose the same size.
_SIDES = (512, 384, 256, 192, 128, 96, 64, 48, 32, 24, 16, 8)
_FLOOR = 256 * MIB  # Less free memory than this does not make tiles smaller.
_PROBE_MARGIN = 1.3  # A probe does not count memory that the allocator had kept before.
_processes = 1  # number of processes that share the free memory
_CGROUP_LIMITS = (  # version 2, then 1: limit and use
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True)
class Workload:
    """What a restoration is about to do, as far as memory is concerned.

    Args:
        height, width: of ``lq``, in pixels.
        count: images in the batch.
        scale: output pixels per pixel of ``lq``.
        halo: margin of a tile, in pixels of ``lq``.
        per_pixel: bytes per pixel of a window, see :func:`flat_cost` and :func:`probed_cost`.
        fixed: bytes taken whatever the tiles: ``lq`` and an output that is kept whole.
    """

    height: int
    width: int
    count: int
    scale: int
    halo: int
    per_pixel: float
    fixed: int = 0

    def network_bytes(self, tile_height: int, tile_width: int) -> float:
        """Taken while one tile passes through the network."""
        window = min(tile_height + 2 * self.halo, self.height) * min(tile_width + 2 * self.halo, self.width)
        return self.count * window * self.per_pixel

    def band_bytes(self, tile_height: int) -> float:
        """Taken by the output of one row of tiles."""
        rows = min(tile_height + 2 * self.halo, self.height)
        return self.count * rows * self.width * self.scale**2 * OUTPUT_BYTES

    def peak(self, tile_height: int, tile_width: int) -> float:
        """Taken at the same time, at most; what the process had before is not counted."""
        return self.fixed + self.network_bytes(tile_height, tile_width) + self.band_bytes(tile_height)

    def waste(self, tile_height: int, tile_width: int) -> float:
        """Pixels computed per pixel needed: the halos are computed twice and more."""
        tile_height, tile_width = min(tile_height, self.height), min(tile_width, self.width)
        return (1 + 2 * self.halo / tile_height) * (1 + 2 * self.halo / tile_width)


def share_memory(processes: int) -> None:
    """Divide the free memory by the number of ``processes`` that use it at the same time."""
    global _processes
    _processes = max(1, processes)


def free_share(device: torch.device | None, fixed: float = 0) -> float:
    """Bytes that this process may take of what is free, besides ``fixed`` ones."""
    return SHARE / _processes * (available_memory(device) - fixed)


def plan_tile(job: Workload, device: torch.device | None, max_memory: float | None, resident: int) -> tuple[int, int]:
    """Tiles for ``job`` within a limit.

    Args:
        job: what will be done.
        device: where the network runs.
        max_memory: limit in bytes for the process, or for the memory of ``device`` if it has its own; None is
            ``SHARE`` of what is free there.
        resident: bytes that the process had before the job, as long as ``device`` shares its memory.

    Returns:
        Height and width of the tiles in lq pixels, their halo not counted.

    Raises:
        AMDRestoreError: the limit is too low even for the smallest tiles; says what is needed.
    """
    if has_own_memory(device):
        job, resident = dataclasses.replace(job, fixed=0), 0
    if max_memory is None:
        return choose_tile(job, max(free_share(device, job.fixed), _FLOOR) + job.fixed)
    check_limit(max_memory, resident + job.peak(_SIDES[-1], _SIDES[-1]), (job.height, job.width))
    return choose_tile(job, max_memory - resident)


def check_limit(
    limit: float, needed: float, size: tuple[int, int], may_stream: bool = False, free: bool = False
) -> None:
    """Refuse what does not fit.

    Args:
        limit: bytes that may be taken.
        needed: bytes that will be.
        size: (height, width) of the input.
        may_stream: whether the output need not be in memory as a whole in another format.
        free: whether ``limit`` is what is free, and not a limit that somebody set.

    Raises:
        AMDRestoreError: says how much is needed.
    """
    if needed <= limit:
        return
    advice = "close other programs" if free else "raise the memory limit"
    if may_stream:
        advice += ", or write a PNG or TIFF file, which is streamed"
    raise AMDRestoreError(
        f"{limit / MIB:.0f} MiB of {'free ' * free}memory are too little for an input of {size[1]}x{size[0]} pixels, "
        f"which needs {needed / MIB:.0f} MiB; {advice}"
    )


class Account:
    """Who holds how much of the memory for pictures; safe to use from several threads.

    Args:
        room: bytes for all.
    """

    def __init__(self, room: float) -> None:
        self.room = room
        self._held: dict[Hashable, float] = {}
        self._lock = threading.Lock()

    def hold(self, owner: Hashable, size: float) -> None:
        """``owner`` takes ``size`` bytes from now on; 0 when it is done."""
        with self._lock:
            if size:
                self._held[owner] = size
            else:
                self._held.pop(owner, None)

    def held(self, without: Collection[Hashable] = ()) -> float:
        """What all take, those in ``without`` not counted."""
        with self._lock:
            return sum(size for owner, size in self._held.items() if owner not in without)

    def fits(self, size: float, share: float = 1.0) -> bool:
        """Whether ``size`` bytes fit into this share of the room, beside what is held."""
        return self.held() + size <= share * self.room


def choose_tile(job: Workload, budget: float) -> tuple[int, int]:
    """The tile that wastes least computation among those that take at most ``budget`` bytes; the smallest if none."""
    fitting = [sides for sides in product(_SIDES, _SIDES) if job.peak(*sides) <= budget]
    return min(fitting, key=lambda sides: (job.waste(*sides), -min(sides), -sides[1]), default=(_SIDES[-1],) * 2)


def has_own_memory(device: torch.device | None) -> bool:
    """Whether ``device`` has memory of its own; Apple's shares that of the machine."""
    return device is not None and device.type not in ("cpu", "mps")


def flat_cost(num_feat: int, dtype: torch.dtype | None = None, device: torch.device | None = None) -> float:
    """Bytes per lq pixel of a window for :class:`~amd_restore.archs.flat_arch.FlatDenoiser` of this width.

    Args:
        num_feat: its width.
        dtype: of torch, float32 or bfloat16; what the latter takes depends on whether convolutions on ``device``
            read it. None for a graph, which takes as much in any arithmetic.
        device: where torch runs.
    """
    base, per_feature = _FLAT_GRAPH if device is None else _FLAT
    if device is not None and str(dtype) == "torch.bfloat16":
        from amd_restore.precision import convolves_in_bfloat16

        base, per_feature = _FLAT_BFLOAT16 if convolves_in_bfloat16(device) else _FLAT_UNFOLDED
    return base + per_feature * num_feat


def probed_cost(run: Callable[[], object], pixels: int, device: torch.device | None) -> float:
    """Bytes per lq pixel of a window, measured by restoring one.

    Args:
        run: restores a window of ``pixels`` pixels; it is called twice, the first time to warm up.
        pixels: at least some 10 000, or allocators blur the figure.
        device: on which it runs.
    """
    run()
    return _PROBE_MARGIN * max(_growth(run, device), 0) / pixels


def available_memory(device: torch.device | None) -> int:
    """Memory that can be had without swapping: of the device if it has its own, else of the machine or container."""
    if has_own_memory(device):
        import torch

        module = torch.get_device_module(device)
        if hasattr(module, "mem_get_info"):
            return int(module.mem_get_info(device)[0])
    import psutil

    free: int = psutil.virtual_memory().available
    for limit, use in _CGROUP_LIMITS:
        try:
            free = min(free, max(int(Path(limit).read_text()) - int(Path(use).read_text()), 0))
            break
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
    return free


def process_memory() -> int:
    """Memory that this process has now."""
    try:  # Linux; spares importing psutil where nothing else needs it
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError):
        import psutil

        resident: int = psutil.Process().memory_info().rss
        return resident


def _growth(run: Callable[[], object], device: torch.device | None) -> int:
    """By how much memory rises while ``run`` runs."""
    module = None
    if has_own_memory(device):
        import torch

        module = torch.get_device_module(device)
    if module is not None and hasattr(module, "max_memory_allocated"):
        module.reset_peak_memory_stats(device)
        before = module.memory_allocated(device)
        run()
        return int(module.max_memory_allocated(device)) - int(before)
    import psutil

    process, finished = psutil.Process(), threading.Event()
    before = highest = process.memory_info().rss

    def watch() -> None:
        nonlocal highest
        while not finished.wait(5e-4):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        run()
    finally:
        finished.set()
        watcher.join()
    return highest - before
