"""Seconds and peak memory of 128x128 -> 512x512, as a Markdown table.

    python benchmarks/scripts/speed.py --weights x4-classical --steps 1 2 4 --threads 2

The clock covers a whole call of the pipeline: noise, network, decoding. Each row is measured in a process of its
own; its memory is that of the whole process (Python, torch and weights included).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM_UP, RUNS, SIDE = 3, 10, 128
# torch must not be imported here: on Linux a child starts with its parent's peak memory in the books.


def measure(weights: str, steps: int, dtype: str, threads: int) -> dict[str, Any]:
    """Median seconds, peak memory in MB and what it ran on; ``steps`` 0 is bicubic interpolation."""
    import resource

    import torch

    from amd_restore.benchmark.provenance import processor
    from amd_restore.pipeline import RestorationPipeline

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    lq = torch.rand(1, 3, SIDE, SIDE)
    if steps:
        pipeline = RestorationPipeline.from_pretrained(weights, "cpu", getattr(torch, dtype))

        def run() -> Any:
            return pipeline(lq, num_steps=steps, tile=0)
    else:

        def run() -> Any:
            return torch.nn.functional.interpolate(lq, scale_factor=4.0, mode="bicubic", antialias=True)

    seconds = statistics.median([_time(run) for _ in range(WARM_UP + RUNS)][WARM_UP:])
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes on macOS, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {"seconds": seconds, "peak_mb": peak, "torch": torch.__version__, "machine": processor()}


def main() -> None:
    """Measure every row in its own process and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="x4-classical", help="released name, file or folder")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--row", nargs=2, metavar=("STEPS", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        steps, dtype = int(options.row[0]), options.row[1]
        sys.stdout.write(json.dumps(measure(options.weights, steps, dtype, options.threads)))
        return
    rows = [("bicubic", "float32", 0)]
    rows += [(f"{options.weights}, {steps} step{'s' * (steps > 1)}", dtype, steps)
             for steps in options.steps for dtype in ("float32", "bfloat16")]  # fmt: skip
    lines = []
    for name, dtype, steps in rows:
        result = _in_own_process(options, steps, dtype)
        lines.append(f"| {name} | {dtype} | {result['seconds']:.4f} | {result['peak_mb']:.0f} |")
    sys.stdout.write(
        f"{result['machine']}, {options.threads} threads, torch {result['torch']}, {SIDE}x{SIDE} -> x4, batch 1, "
    )
    sys.stdout.write(f"median of {RUNS} after {WARM_UP}\n\n| method | dtype | seconds | peak MB |\n|---|---|---|---|\n")
    sys.stdout.write("\n".join(lines) + "\n")


def _in_own_process(options: argparse.Namespace, steps: int, dtype: str) -> dict[str, Any]:
    arguments = [sys.executable, __file__, "--weights", options.weights, "--threads", str(options.threads)]
    child = subprocess.run(
        [*arguments, "--row", str(steps), dtype],
        env=os.environ | {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if child.returncode:
        sys.exit(f"speed.py: the row of {steps} steps in {dtype} failed; its message is above")
    result: dict[str, Any] = json.loads(child.stdout)
    return result


def _time(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
