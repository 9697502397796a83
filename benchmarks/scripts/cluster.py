"""Many small pictures by two workers of a Ray cluster, one of them killed, against one process, as a Markdown table.

    python benchmarks/scripts/cluster.py --pictures 200 --workers 2

Each row is a process of its own, from its first line to its last; outputs are compared byte by byte with those of the
first row. The pictures are random: their content changes neither time nor outcome.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def measure(row: dict[str, Any]) -> dict[str, Any]:
    """Restore the folder ``row["input"]`` as the row says; seconds and counts."""
    from amd_restore.apps.files.engine import Engine
    from amd_restore.apps.files.plan import plan_jobs
    from amd_restore.apps.files.restorer import Restorer
    from amd_restore.apps.files.settings import Settings
    from amd_restore.apps.ray.connection import Cluster
    from amd_restore.apps.ray.engine import RayEngine
    from amd_restore.apps.ray.plan import plan_cluster_jobs

    settings = Settings(model=row["weights"], device="cpu", threads=row["threads"])
    start = time.perf_counter()
    moments, statuses = [], Counter[str]()
    engine = None
    if row["workers"]:
        engine = RayEngine(settings, Cluster(workers=row["workers"]))
        outcomes = engine.run(plan_cluster_jobs(row["input"], row["output"]))
    else:
        outcomes = Engine(Restorer(settings)).run(plan_jobs(Path(row["input"]), Path(row["output"])))
    for outcome in outcomes:
        moments.append(time.perf_counter() - start)
        statuses[outcome.status] += 1
        if row["kill"] and engine is not None and len(moments) == row["kill"]:
            os.kill(engine.busy[0][1], signal.SIGKILL)
    return {
        "seconds": time.perf_counter() - start,
        "first": moments[0],
        "work": moments[-1] - moments[0],
        "statuses": dict(statuses),
        "retries": engine.retries if engine else 0,
        "lost": engine.lost_workers if engine else 0,
    }


def main() -> None:
    """Measure every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--side", type=int, default=96, help="of the pictures, in pixels (default: 96)")
    parser.add_argument("--workers", type=int, default=2, help="of the cluster, with one thread each (default: 2)")
    parser.add_argument("--weights", default="x4-classical", help="released name, file or folder")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        sys.stdout.write(json.dumps(measure(options.row)) + "\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        make_pictures(Path(folder, "in"), options.pictures, options.side)
        sys.stdout.write(_table(options, Path(folder)))


def make_pictures(folder: Path, number: int, side: int) -> None:
    """``number`` random pictures."""
    import numpy as np

    from amd_restore.image_io import Picture, write_image

    generator = np.random.default_rng(0)
    for index in range(number):
        write_image(folder / f"{index:05}.png", Picture(generator.integers(0, 256, (side, side, 3), np.uint8)))


def _table(options: argparse.Namespace, folder: Path) -> str:
    from amd_restore.benchmark.provenance import processor  # imports torch: not for the processes that are measured

    workers = options.workers
    rows = [
        ("one process, one thread", {"workers": 0, "threads": 1, "kill": 0}),
        (f"one process, {workers} threads", {"workers": 0, "threads": workers, "kill": 0}),
        (f"Ray, {workers} workers", {"workers": workers, "threads": 1, "kill": 0}),
        (f"Ray, {workers} workers, one killed", {"workers": workers, "threads": 1, "kill": options.pictures // 4}),
    ]
    lines = [
        f"# {options.pictures} pictures of {options.side}x{options.side}, {time.strftime('%Y-%m-%d')}\n",
        f"`python benchmarks/scripts/cluster.py --pictures {options.pictures} --side {options.side} "
        f"--workers {workers}`; "
        f"{processor()}, {os.cpu_count()} processors, Python {platform.python_version()}. "
        "The worker is killed (SIGKILL) when a quarter is done.\n",
        "| row | restored | failed | retries | workers lost | seconds in all | until the first picture | "
        "pictures a second from then on | outputs as in the first row |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    first: dict[str, bytes] = {}
    for number, (name, values) in enumerate(rows):
        output = folder / f"out{number}"
        row = values | {"weights": options.weights, "input": str(folder / "in"), "output": str(output)}
        found = _in_a_process(row)
        made = {path.name: path.read_bytes() for path in output.glob("*.png")}
        first = first or made
        same = sum(made.get(key) == data for key, data in first.items())
        lines.append(
            f"| {name} | {found['statuses'].get('restored', 0)} | {found['statuses'].get('failed', 0)} "
            f"| {found['retries']} | {found['lost']} | {found['seconds']:.1f} | {found['first']:.1f} "
            f"| {(options.pictures - 1) / found['work']:.2f} | {same} of {len(first)} |"
        )
    return "\n".join(lines) + "\n"


def _in_a_process(row: dict[str, Any]) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(row["threads"])}
    command = [sys.executable, __file__, "--row", json.dumps(row)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
