"""``python -m amd_restore.benchmark.ablation -opt options/ablation/NAME.yml``: train, measure, write the table.

Finished runs are skipped, interrupted ones resumed. Runs go to ``experiments/NAME_ARM_sSEED``, their option files,
logs and costs to ``experiments/NAME``, tables to ``benchmarks/NAME``.

Exit codes: 0 success, 1 some run failed (the others continued), 2 nothing was started, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from amd_restore.atomic import path_option
from amd_restore.errors import OK, SOME_FAILED, AMDRestoreError, Parser, complain, imports_of, run_command
from amd_restore.registry import did_you_mean

with imports_of("train"):
    from amd_restore.benchmark.ablation.ablation import Ablation
    from amd_restore.benchmark.ablation.options import load_ablation_options


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = Parser(prog="python -m amd_restore.benchmark.ablation", description=__doc__)
    add = parser.add_argument
    add("-opt", required=True, type=path_option, help="option file (.yml)")
    add("--out", type=path_option, help="folder of tables and cached measurements (default: benchmarks/NAME)")
    add("--only", nargs="+", default=[], metavar="ARM", help="only these arms")
    add("--seeds", nargs="+", default=[], type=int, metavar="SEED", help="only these training seeds")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--evaluate_only", action="store_true", help="measure finished runs without training")
    what.add_argument("--train_only", action="store_true", help="train without measuring")
    what.add_argument("--measure_one", action="store_true", help=argparse.SUPPRESS)  # used by this command itself
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = build_parser().parse_args(arguments)
    interrupted = "interrupted; the same command goes on from there"
    return run_command(lambda: run(args), args.debug, interrupted=interrupted, extra="train")


def run(args: argparse.Namespace) -> int:
    """Run the ablation.

    Returns:
        ``OK``, or ``SOME_FAILED`` if some run failed.

    Raises:
        AMDRestoreError: a wrong option, before anything starts.
    """
    options = load_ablation_options(args.opt)
    for arm in args.only:
        if arm not in options.arms:
            raise AMDRestoreError(f"--only: no arm '{arm}'; {did_you_mean(arm, options.arms)}")
    for seed in args.seeds:
        if seed not in options.seeds:
            raise AMDRestoreError(f"--seeds: no seed {seed} in the option file, only {options.seeds}")
    ablation = Ablation(options, args.opt, args.out or Path("benchmarks") / options.name, args.only, args.seeds)
    if args.measure_one:
        ablation.measure_here()
        return OK
    failures = ablation.run(train=not args.evaluate_only, evaluate=not args.train_only)
    for failure in failures:
        complain(f"failed: {failure}")
    return SOME_FAILED if failures else OK


if __name__ == "__main__":
    sys.exit(main())
