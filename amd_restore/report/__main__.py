"""``python -m amd_restore.report RUN... [--out FILE.html] [--figure FILE.png]``.

RUN is the experiment folder of a training, or ``experiments/NAME`` of an ablation for all of its runs. With
``--compute FILE.png`` the runs are the stages of one recipe in their order, and only the curve of validation LPIPS and
PSNR against training compute is drawn, with its numbers as .csv.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from amd_restore.atomic import path_option, user_error, write_atomically
from amd_restore.errors import AMDRestoreError, Parser, imports_of, run_command, say

with imports_of("train"):
    from amd_restore.report.compute import AXES, compute_csv, compute_figure, stages
    from amd_restore.report.curves import main_figure
    from amd_restore.report.page import render
    from amd_restore.report.quantities import layout
    from amd_restore.report.runs import ReportRun, arms_of, find_runs

# Quantities of the figure for documents, if runs have them.
MAIN = (
    "amd/forbidden_share",
    "amd/alpha_mean",
    "amd/cosine_gt_inside",
    "amd/cosine_gt_outside",
    "amd/norm_matching",
    "amd/norm_guidance",
    "amd/fake_loss_inside",
    "amd/diversity",
    "reward/total",
)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = Parser(prog="python -m amd_restore.report", description=__doc__)
    add = parser.add_argument
    add("runs", nargs="+", type=path_option, metavar="RUN", help="experiment folder of a training or of an ablation")
    add("--out", type=path_option, default=Path("report.html"), help="page to write (default: report.html)")
    add("--figure", type=path_option, help="also write the main figure (.png)")
    add(
        "--compute",
        type=path_option,
        help="instead of a page, draw quality against compute, with the runs as stages (.png)",
    )
    add("--axis", choices=tuple(AXES), default="hours", help="unit of compute (default: hours)")
    add("--quantities", nargs="+", metavar="KEY", help="quantities of the main figure (default: a standard set)")
    add(
        "--tables",
        nargs="+",
        type=path_option,
        default=[],
        metavar="FILE.md",
        help="tables of a benchmark or an ablation to include",
    )
    add("--title", help="heading (default: names of the folders)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = build_parser().parse_args(arguments)
    return run_command(lambda: run(args), args.debug, extra="train")


def run(args: argparse.Namespace) -> None:
    """Write the page, or the curve of ``--compute``.

    Raises:
        AMDRestoreError: a run that cannot be read, or a file that cannot be written.
    """
    runs = find_runs(args.runs)
    if args.compute:
        rows = stages(runs)
        write_atomically(args.compute, compute_figure(rows, args.axis))
        write_atomically(args.compute.with_suffix(".csv"), compute_csv(rows).encode())
        say(f"written to {args.compute} and .csv ({len(rows)} values of {len(runs)} stages)")
        return
    title = args.title or ", ".join(folder.resolve().name for folder in args.runs)
    page = render(title, runs, [_read(file) for file in args.tables]).encode()
    write_atomically(args.out, page)
    say(f"written to {args.out} ({len(page) / 2**20:.1f} MiB)")
    if args.figure:
        write_atomically(args.figure, _figure(runs, args.quantities or []))
        say(f"written to {args.figure}")


def _figure(runs: Sequence[ReportRun], wanted: Sequence[str]) -> bytes:
    curves = {arm: [run.curves() for run in of_arm] for arm, of_arm in arms_of(runs).items()}
    known = {
        quantity.key: quantity
        for _, quantities in layout(key for of_arm in curves.values() for run in of_arm for key in run)
        for quantity in quantities
    }
    unknown = [key for key in wanted if key not in known]
    if unknown:
        raise AMDRestoreError(f"--quantities: no run has '{unknown[0]}'; they have {', '.join(known)}")
    shown = [known[key] for key in wanted or MAIN if key in known] or list(known.values())[: len(MAIN)]
    if not shown:
        raise AMDRestoreError("the diagnostics of these runs are empty; there is nothing to draw")
    return main_figure(shown, curves)


def _read(file: Path) -> str:
    with user_error(f"cannot read {file}", "give the .md file of an ablation or benchmark"):
        return file.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
