"""Run other people's x4 upscalers on test sets and write their results as the benchmark reads them.

    python benchmarks/scripts/peers/run.py --peers all --input FOLDER --output results/peers [--datasets Set5 Set14]

Input is FOLDER/DATASET/LRbicx4/*.png or FOLDER/DATASET/*.png; output is OUTPUT/PEER/DATASET/NAME.png, and
OUTPUT/peers.json with seconds, threads, versions and licences, where entries of other peers and data sets stay. A peer
that cannot be had does not stop the others: its entry in peers.json and OUTPUT/PEER/DATASET/absent.txt say why, and the
benchmark's row repeats it.

Exit codes: 0 at least one peer ran, 1 none did, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from dat_light import DATLight
from downloaded import LSDIRCompact, RealESRGeneral, RealESRGeneralWDN
from esrgan_thick import ESRGANThick
from interpolation import OpenCVBicubic, OpenCVLanczos, PillowBicubic, PillowLanczos
from peer import Image, Peer, PeerError
from realesrgan import RealESRAnimeVideo, RealESRGANx4plus
from span import ClearReality, SpanCh48, SpanCh52
from spanv2 import SpanV2

from amd_restore.atomic import write_atomically
from amd_restore.benchmark.images import read_rgb
from amd_restore.data.image_files import list_images
from amd_restore.errors import OK, SOME_FAILED, AMDRestoreError, Parser, run_command, say
from amd_restore.image_io import SUFFIXES, Picture, write_image

PEERS: tuple[type[Peer], ...] = (
    OpenCVBicubic,
    OpenCVLanczos,
    PillowBicubic,
    PillowLanczos,
    SpanCh48,
    SpanCh52,
    ClearReality,
    RealESRAnimeVideo,
    RealESRGANx4plus,
    RealESRGeneral,
    RealESRGeneralWDN,
    LSDIRCompact,
    SpanV2,
    DATLight,
    ESRGANThick,
)
NOTE = (
    "absent.txt"  # amd_restore.benchmark.absent reads it; imported from there it would bring torch into every process
)
SIDE = 128  # the input whose seconds can be compared between peers
WARM_UP_SIDE = 32
Entry = dict[str, Any]


@dataclass(frozen=True)
class PeerRun:
    """What a peer is asked to do.

    Attributes:
        datasets: name -> files of inputs.
        output: results go to ``output/PEER/DATASET``.
        cache: packages.
        downloads: files that a user has downloaded; None for a folder in the cache.
        threads: CPU threads.
        repeats: timed calls on the 128x128 input, after one that is not timed; 0 leaves it out.
    """

    datasets: dict[str, list[Path]]
    output: Path
    cache: Path
    threads: int = 1
    repeats: int = 3
    downloads: Path | None = None


def run_peer(kind: type[Peer], job: PeerRun) -> list[Entry]:
    """All of one peer: fetch, warm up, restore, write. One entry per data set.

    Raises:
        PeerError: it cannot be had.
    """
    peer = kind(job.cache, job.threads, job.downloads)
    peer.install()
    side = SIDE if job.repeats else WARM_UP_SIDE
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    peer.restore(noise)  # loads the model and chooses kernels; that is not the time of an image
    at_side = statistics.median([_timed(peer, noise)[1] for _ in range(job.repeats)]) if job.repeats else None
    entries = []
    for dataset, files in job.datasets.items():
        folder = job.output / peer.name / dataset
        seconds = []
        for file in files:
            lq = read_rgb(file)
            sr, spent = _timed(peer, lq)
            seconds.append(spent)
            write_image(folder / f"{file.stem}.png", Picture(sr))
        (folder / NOTE).unlink(missing_ok=True)
        entries.append(
            {
                **describe(kind),
                "dataset": dataset,
                "images": len(files),
                "seconds_per_image": statistics.median(seconds),
                "seconds_128_to_512": at_side,
                "threads": job.threads,
            }
        )
    return entries


def run_apart(kind: type[Peer], job: PeerRun) -> list[Entry]:
    """:func:`run_peer` in a process of its own, whose threads, memory and crashes are its own, too."""
    # OpenMP reads it when a library is loaded, hence before the process starts.
    os.environ["OMP_NUM_THREADS"] = str(job.threads)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run_peer, kind, job).result()


def run_all(
    kinds: Sequence[type[Peer]], job: PeerRun, run: Callable[[type[Peer], PeerRun], list[Entry]] = run_apart
) -> Iterator[Entry]:
    """Entries of every peer and data set, in order; those of a peer that failed have a ``reason``."""
    for kind in kinds:
        try:
            yield from run(kind, job)
            continue
        except (PeerError, AMDRestoreError) as error:
            reason = str(error)
        except BrokenProcessPool:
            reason = "the process ended without a word (memory, or a CPU that its package does not support)"
        except Exception as error:  # somebody else's code may fail in any way; the row says how
            reason = f"{type(error).__name__}: {error}"
        reason = " ".join(reason.split())[:300]
        for dataset, files in job.datasets.items():
            folder = job.output / kind.name / dataset
            for file in files:  # half a data set is no result
                (folder / f"{file.stem}.png").unlink(missing_ok=True)
            write_atomically(folder / NOTE, f"{reason}\n".encode())
            yield {**describe(kind), "dataset": dataset, "images": 0, "reason": reason}


def describe(kind: type[Peer]) -> Entry:
    """Name, licence and source of a peer, as they stand in ``peers.json``."""
    packages = [
        {"package": str(package), "licence": package.licence, "sha256": package.sha256 or None}
        for package in kind.packages
    ]
    return {"peer": kind.name, "about": kind.about, "licence": kind.licence, "packages": packages}


def find_all_datasets(roots: Sequence[Path], names: Sequence[str], subfolder: str) -> dict[str, list[Path]]:
    """:func:`find_datasets` in several folders; of data sets of one name the first counts.

    Raises:
        AMDRestoreError: no inputs, or a name that no folder has.
    """
    missing = [name for name in names if not any((root / name).is_dir() for root in roots)]
    if missing:
        raise AMDRestoreError(f"no data set {missing[0]} in {', '.join(map(str, roots))}")
    found: dict[str, list[Path]] = {}
    for root in roots:
        here = [name for name in names if (root / name).is_dir()]
        if here or not names:
            found = {**find_datasets(root, here, subfolder), **found}
    return found


def find_datasets(root: Path, names: Sequence[str], subfolder: str) -> dict[str, list[Path]]:
    """Inputs by data set: ``root/NAME/subfolder`` if there is one, else ``root/NAME``.

    Args:
        root: folder of data sets.
        names: which; none means every sub-folder that has inputs.
        subfolder: name of the folder of inputs.

    Raises:
        AMDRestoreError: no inputs.
    """
    if not root.is_dir():
        raise AMDRestoreError(f"{root}: no such folder of data sets")
    found = {}
    for name in names or sorted(path.name for path in root.iterdir() if path.is_dir()):
        inner = root / name / subfolder
        folder = inner if inner.is_dir() else root / name
        # Named data sets must have inputs; of the others, those with ground truth alone are passed over.
        if names or any(path.suffix.lower() in SUFFIXES for path in folder.iterdir()):
            found[name] = list_images(folder, SUFFIXES)
    if not found:
        raise AMDRestoreError(f"{root}: no sub-folder with images, directly or in {subfolder}/")
    return found


def earlier_entries(file: Path, entries: Sequence[Entry]) -> list[Entry]:
    """Entries of earlier runs about other peers or data sets; none from a file that cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        when = {"date": content["date"], "machine": content["machine"]}
        replaced = {(entry["peer"], entry["dataset"]) for entry in entries}
        return [{**when, **old} for old in content["entries"] if (old["peer"], old["dataset"]) not in replaced]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def line_of(entry: Entry) -> str:
    """A line for people."""
    start = f"{entry['peer']:24} {entry['dataset']:8} "
    if "reason" in entry:
        return f"{start}not available: {entry['reason']}"
    at_side = entry["seconds_128_to_512"]
    fixed = "" if at_side is None else f", {at_side:.3f} s for {SIDE}x{SIDE}"
    return f"{start}{entry['images']} images, {entry['seconds_per_image']:.3f} s per image (median){fixed}"


def main(arguments: Sequence[str] | None = None, kinds: Sequence[type[Peer]] = PEERS) -> int:
    """Run the command; returns the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [kind.name for kind in kinds]
    parser.add_argument("--peers", nargs="+", default=["all"], choices=["all", *names], metavar="PEER")
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="folders of data sets")
    parser.add_argument("--output", type=Path, required=True, help="folder of results")
    parser.add_argument("--datasets", nargs="+", default=[], help="only these sub-folders of the input")
    parser.add_argument("--subfolder", default="LRbicx4", help="where a data set has its inputs in a sub-folder")
    parser.add_argument("--cache", type=Path, default="~/.cache/amd_restore_peers")
    parser.add_argument("--downloads", type=Path, help="files that you have downloaded (default: CACHE/downloads)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3, help=f"timed calls on {SIDE}x{SIDE}; 0 leaves them out")
    args = parser.parse_args(arguments)
    from amd_restore.benchmark.provenance import processor  # imports torch: not for the processes of the peers

    def command() -> int:
        datasets = find_all_datasets(args.input, args.datasets, args.subfolder)
        job = PeerRun(datasets, args.output, args.cache.resolve(), args.threads, args.repeats, args.downloads)
        chosen = [kind for kind in kinds if "all" in args.peers or kind.name in args.peers]
        say(f"{processor()}, {args.threads} threads, the first call of each is not timed")
        date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        when = {"date": date, "machine": f"{processor()}, {platform.system()}"}
        entries = []
        for entry in run_all(chosen, job):
            entries.append({**entry, **when})
            say(line_of(entry))
        file = args.output / "peers.json"
        header = {**when, "threads": args.threads, "entries": [*earlier_entries(file, entries), *entries]}
        write_atomically(file, (json.dumps(header, indent=1) + "\n").encode())
        return OK if any("reason" not in entry for entry in entries) else SOME_FAILED

    return run_command(command, args.debug)


def _timed(peer: Peer, lq: Image) -> tuple[Image, float]:
    start = time.perf_counter()
    sr = peer.restore(lq)
    return sr, time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
