"""Peak memory and seconds of large outputs, streamed to disk, as a Markdown table; and what single windows take.

    python benchmarks/scripts/memory.py --megapixels 24 100 --max_memory 2048 --threads 2
    python benchmarks/scripts/memory.py --window 512 --num_feat 64 --dtype float32

Memory is the peak resident size of a process of its own, Python and torch included. The input is made up of coloured
noise and gradients, so a PNG of it is about as hard to compress as one of a photograph.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def peak_bytes() -> int:
    """Peak resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where the other counter starts at the size of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 2**10
    import resource

    unit = 1 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def load(options: argparse.Namespace) -> Any:
    """The pipeline; with ``--num_feat`` a flat network of random weights takes the place of the released one."""
    from amd_restore.pipeline import RestorationPipeline

    if options.backend != "torch":  # not even imported, for its memory would count
        return RestorationPipeline.from_pretrained(
            options.model, "cpu", "float32", options.backend, threads=options.threads
        )
    import torch

    from amd_restore.archs.flat_arch import FlatDenoiser

    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    pipeline = RestorationPipeline.from_pretrained(options.model, "cpu", dtype)
    if options.num_feat:
        net = FlatDenoiser(num_feat=options.num_feat, num_block=options.num_block)
        pipeline = RestorationPipeline(pipeline.header, net, "cpu", dtype)
    return pipeline


def measure_window(options: argparse.Namespace) -> dict[str, float]:
    """Bytes per lq pixel of one window, and how many the plan of tiles counts for it."""
    import numpy as np

    from amd_restore.inference.call_options import WindowOptions

    pipeline = load(options)
    generator = np.random.default_rng(0)
    pipeline(generator.random((1, 3, 64, 64), np.float32), num_steps=options.steps, tile=0)
    lq = generator.random((1, 3, options.window, options.window), np.float32)
    before = peak_bytes()
    pipeline.restorer(lq, 0, 0, WindowOptions(options.steps, (0,)))
    taken = (peak_bytes() - before) / options.window**2
    return {"bytes_per_pixel": taken, "planned": pipeline.restorer.bytes_per_pixel}


def measure_picture(options: argparse.Namespace) -> dict[str, float]:
    """Seconds, tiles, and peaks before and after of one restoration of a square picture into a file."""
    import numpy as np

    from amd_restore.image_io import Picture

    pipeline = load(options)
    side, rng = options.side, np.random.default_rng(0)
    coarse = rng.integers(0, 200, (side // 16 + 1, side // 16 + 1, 3), np.uint8)
    lq = coarse.repeat(16, 0).repeat(16, 1)[:side, :side] + rng.integers(0, 16, (side, side, 3), np.uint8)
    tiles = 0

    def count(done: int, total: int) -> None:
        nonlocal tiles
        tiles = total
        if not options.json:
            sys.stderr.write(f"\r{done}/{total} tiles")

    start = time.perf_counter()
    limit = options.max_memory * 2**20 if options.max_memory else None
    before = peak_bytes() / 2**20
    pipeline.restore_to(options.output, Picture(lq), num_steps=options.steps, max_memory=limit, progress=count)
    return {
        "seconds": time.perf_counter() - start,
        "before_mib": before,
        "peak_mib": peak_bytes() / 2**20,
        "tiles": tiles,
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--megapixels", type=float, nargs="+", default=[24, 100], help="outputs of the table")
    add("--formats", nargs="+", default=["png", "tif"])
    add("--max_memory", type=float, default=2048, help="MiB; 0 is the default of the pipeline")
    add("--model", default="x4-classical")
    add("--steps", type=int, default=1)
    add("--dtype", default="float32", choices=("float32", "bfloat16"))
    add("--backend", default="torch", help="others compute the model's own network, in float32")
    add("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    add("--num_feat", type=int, help="random flat network of this width instead of the model's")
    add("--num_block", type=int, default=16)
    add("--window", type=int, help="measure one window of this side and print JSON")
    add("--side", type=int, help="measure one picture of this side and print JSON")
    add("--output", type=Path, help="where that goes")
    options = parser.parse_args(arguments)
    options.json = bool(options.window or options.side)
    return options


def main() -> None:
    """Measure what was asked for."""
    options = parse()
    if options.json:
        sys.path.insert(0, str(ROOT))
        sys.stdout.write(json.dumps(measure_window(options) if options.window else measure_picture(options)) + "\n")
        return
    sys.stdout.write(f"{options.model}, {options.steps} step, {options.dtype}, {options.threads} threads, ")
    sys.stdout.write(f"max_memory {options.max_memory:.0f} MiB\n\n| output | format | tiles | seconds | peak MiB |\n")
    sys.stdout.write("|---|---|---|---|---|\n")
    for megapixels in options.megapixels:
        side = round(math.sqrt(megapixels * 1e6) / 4)
        for name in options.formats:
            with tempfile.TemporaryDirectory() as folder:
                found = _in_own_process(options, side, Path(folder) / f"out.{name}")
            row = (
                f"{4 * side}x{4 * side} | {name} | {found['tiles']} | {found['seconds']:.1f} | {found['peak_mib']:.0f}"
            )
            sys.stdout.write(f"| {row} |\n")
            sys.stdout.flush()


def _in_own_process(options: argparse.Namespace, side: int, output: Path) -> dict[str, Any]:
    values = {"side": side, "output": output} | {
        name: getattr(options, name)
        for name in ("max_memory", "model", "steps", "dtype", "backend", "threads", "num_block")
    }
    arguments = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    if options.num_feat:
        arguments += ["--num_feat", str(options.num_feat)]
    child = subprocess.run(
        [sys.executable, __file__, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": str(options.threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if child.returncode:
        sys.exit(f"memory.py: {side}x{side} into {output.suffix} failed; its message is above")
    result: dict[str, Any] = json.loads(child.stdout)
    return result


if __name__ == "__main__":
    main()
