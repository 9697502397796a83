"""Throughput of training on two processes against one, on the CPU: the same images per iteration in all settings.

Command: python benchmarks/scripts/processes.py [--iterations 12] [--rounds 3] [--images 4] [--out FILE.md]
Needs:   the released weights, LPIPS's, and two cores that have nothing else to do. The crops are made up.
Cost:    about 6 minutes on two cores.

The settings take turns, so that all of them see the same moments of the machine. Times are those of training steps
alone (``seconds`` of ``diagnostics.jsonl``), without start-up, validation and saving, and without the first ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from amd_restore.benchmark.provenance import processor
from amd_restore.errors import run_command
from amd_restore.options import OptionFile

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"1 process x 1 thread": (1, 1), "1 process x 2 threads": (1, 2), "2 processes x 1 thread": (2, 1)}
REFERENCE = "1 process x 1 thread"
WEIGHTS = str(ROOT / "amd_restore" / "weights" / "x4-classical-teacher.safetensors")
WARMUP = 4  # iterations that do not count


def run(options: dict[str, Any], processes: int, threads: int, images: int, iterations: int) -> list[float]:
    """Seconds of each iteration after the first ones."""
    options["num_threads"], options["num_gpu"] = threads, 0
    options["datasets"]["train"]["batch_size_per_gpu"] = images // processes
    options["train"]["total_iter"] = WARMUP + iterations
    options["logger"].update(print_freq=1, save_checkpoint_freq=10**9, use_tb_logger=False)
    options.pop("val", None)
    options["datasets"].pop("val", None)
    options["path"] = {key: WEIGHTS for key in options["path"] if key.startswith("pretrain_network")}
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "amd_restore" / "train.py")]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [sys.executable, *launcher, *command[1:], "--launcher", "pytorch"]
    with tempfile.TemporaryDirectory() as folder:
        crops = np.random.default_rng(0).integers(0, 256, (64, 160, 160, 3), dtype=np.uint8)
        np.save(Path(folder) / "crops.npy", crops)
        options["datasets"]["train"]["crops_file"] = str(Path(folder) / "crops.npy")
        file = Path(folder) / "options.yml"
        file.write_text(yaml.safe_dump(options), encoding="utf-8")
        result = subprocess.run(
            [*command, "-opt", str(file)], cwd=folder, env=environment, capture_output=True, text=True
        )
        if result.returncode:
            sys.exit(result.stderr[-2000:])
        rows = (Path(folder) / "experiments" / options["name"] / "diagnostics.jsonl").read_text(encoding="utf-8")
    seconds = [json.loads(row)["seconds"] for row in rows.splitlines()]
    return [after - before for before, after in zip(seconds[WARMUP - 1 :], seconds[WARMUP:], strict=False)]


def report(args: argparse.Namespace, means: dict[str, list[float]]) -> str:
    """Markdown: time per iteration, images per second, and the ratio to one process with one thread, round by round."""
    lines = [
        f"{args.recipe}, {args.images} images per iteration, {args.rounds} rounds of {args.iterations} iterations that "
        f"take turns; {processor()}, {os.cpu_count()} cores.",
        "",
        "| | s / iteration | images / s | throughput against one process with one thread (all rounds) |",
        "|---|---|---|---|",
    ]
    for name, values in means.items():
        ratios = [one / value for one, value in zip(means[REFERENCE], values, strict=True)]
        seconds = statistics.median(values)
        shown = f"{statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})"
        lines.append(f"| {name} | {seconds:.3f} | {args.images / seconds:.2f} | {shown} |")
    two = [b / a for a, b in zip(means["2 processes x 1 thread"], means["1 process x 2 threads"], strict=True)]
    lines += [
        "",
        f"Two processes against two threads: {statistics.median(two):.2f} ({min(two):.2f} to {max(two):.2f}).",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="amd_x4_classical", help="file of options/train")
    parser.add_argument("--images", type=int, default=4, help="per iteration, of all processes")
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--force", nargs="*", default=[], metavar="A:B=VALUE", help="other options")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    recipe = ROOT / "options" / "train" / f"{args.recipe}.yml"
    means: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(args.rounds):
        for name, (processes, threads) in SETTINGS.items():
            options = OptionFile.read(recipe, args.force).content
            times = run(options, processes, threads, args.images, args.iterations)
            means[name].append(statistics.mean(times))
    result = report(args, means)
    print(result)  # noqa: T201
    if args.out:
        args.out.write_text(result, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_command(main))
