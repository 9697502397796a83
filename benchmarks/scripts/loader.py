"""What the data cost: training steps per second with the loader and the degradation, and without either.

    python benchmarks/scripts/loader.py -opt options/train/teacher_x4_real.yml --blocks 5 --steps 10

Builds model and loader of an option file as training does and takes real training steps, in blocks that alternate
between fresh batches and one batch that is already there, low-quality side included. Nothing is saved. Weights to
start from that are not there are left out with ``--force_yml path:pretrain_network_g=null``.
"""

from __future__ import annotations

import argparse
import logging
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from amd_restore.errors import Parser, run_command, say
from amd_restore.registry import import_basicsr, register_all
from amd_restore.training.loaders import create_dataloaders
from amd_restore.training.pipeline import build_parser, prepare_options

LIMIT = 0.10  # the share of a step that data work may take


def build(arguments: Sequence[str], folder: Path) -> tuple[Any, Any]:
    """Model and training loader of an option file; what they write goes below ``folder``."""
    import_basicsr()
    register_all(training=True)
    from basicsr.models import build_model

    options = prepare_options(build_parser(True).parse_args(arguments), folder, True)
    options["datasets"] = {"train": options["datasets"]["train"]}
    options["logger"]["use_tb_logger"] = False
    loader = create_dataloaders(options, logging.getLogger("basicsr"))[0]
    return build_model(options), loader


def measure(model: Any, loader: Any, blocks: int, steps: int) -> tuple[list[float], list[float]]:
    """Seconds per step of each block, with and without data work, after one block of each that does not count.

    Steps without data work use the batch of the step before them, so that the network sees real crops in both.
    """
    batches = iter(loader)
    count = 0

    def step(feed: Callable[[], None]) -> float:
        nonlocal count
        start = time.perf_counter()
        for _ in range(steps):
            count += 1
            feed()
            model.optimize_parameters(count)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / steps

    def fresh() -> None:
        model.current_iter = count - 1  # what names the degradation's seed
        model.feed_data(next(batches))

    with_data, without = [], []
    for _ in range(blocks + 1):
        with_data.append(step(fresh))
        gt, lq = model.gt, model.lq

        def kept(gt: torch.Tensor = gt, lq: torch.Tensor = lq) -> None:
            model.gt, model.lq = gt, lq

        without.append(step(kept))
    return with_data[1:], without[1:]


def report(with_data: Sequence[float], without: Sequence[float], name: str, threads: int) -> str:
    """The table, and whether data work stays below the limit."""
    slow, fast = statistics.median(with_data), statistics.median(without)
    share = 1 - fast / slow
    verdict = "below" if share < LIMIT else "NOT below"
    return (
        f"{name}, {threads} threads, {platform.machine()}, medians of {len(with_data)} blocks, in turn\n\n"
        "| | steps per second | seconds per step |\n|---|---|---|\n"
        f"| with data work | {1 / slow:.3f} | {slow:.4f} |\n"
        f"| without | {1 / fast:.3f} | {fast:.4f} |\n\n"
        f"Loading and degrading take {share:.1%} of a step: {verdict} {LIMIT:.0%}.\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if data work stays below the limit, 1 if not, 2 when it cannot be measured."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", required=True, help="option file of a training")
    parser.add_argument("--blocks", type=int, default=5, help="blocks of each kind that count")
    parser.add_argument("--steps", type=int, default=10, help="training steps per block")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="a:b=value", help="override options")
    args = parser.parse_args(arguments)
    forced = ["--force_yml", *args.force_yml] if args.force_yml else []

    def command() -> int:
        with tempfile.TemporaryDirectory() as folder:
            model, loader = build(["-opt", args.opt, *forced], Path(folder))
            measured = measure(model, loader, args.blocks, args.steps)
        say(report(*measured, Path(args.opt).stem, torch.get_num_threads()))
        return 0 if statistics.median(measured[1]) / statistics.median(measured[0]) > 1 - LIMIT else 1

    return run_command(command, args.debug)


if __name__ == "__main__":
    sys.exit(main())
