"""``python -m amd_restore.benchmark -opt options/benchmark/NAME.yml [--out FOLDER]``.

Exit codes: 0 success, 2 the benchmark could not be run, 130 interrupted (finished runs are cached).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amd_restore.atomic import path_option
from amd_restore.errors import AMDRestoreError, Parser, complain, imports_of, run_command, say
from amd_restore.registry import did_you_mean

with imports_of("train"):
    import torch
    from tqdm import tqdm

    from amd_restore.benchmark.absent import Absent, find_absent
    from amd_restore.benchmark.earlier import EarlierReport
    from amd_restore.benchmark.evaluate import Evaluator, Result
    from amd_restore.benchmark.images import TestSet
    from amd_restore.benchmark.methods import Method, build_methods
    from amd_restore.benchmark.options import BenchmarkOptions, load_benchmark_options
    from amd_restore.benchmark.plots import write_plots
    from amd_restore.benchmark.provenance import protocol
    from amd_restore.benchmark.speed import Speed, collect, measure_speed
    from amd_restore.benchmark.tables import check_compare, compare, write_report


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = Parser(prog="python -m amd_restore.benchmark", description=__doc__)
    add = parser.add_argument
    add("-opt", required=True, type=path_option, help="option file (.yml)")
    add("--out", type=path_option, help="folder of tables and cached results (default: benchmarks/NAME)")
    add("--methods", nargs="+", default=[], metavar="NAME", help="only these methods of the file")
    add("--weights", nargs="+", default=[], metavar="NAME=FILE", help="replace the weights of a method")
    add(
        "--keep",
        action="store_true",
        help="keep the rows of the earlier report whose weights and test files are the same, and measure the others; "
        "with --methods, which may also be rows ('NAME, 2 steps'), measure only these, changed or not. The images of "
        "images of rows of type folder are not compared: name such rows with --methods",
    )
    add("--fresh", action="store_true", help="ignore cached results")
    add("--save_images", action="store_true", help="save every restored image in the output folder")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = build_parser().parse_args(arguments)
    # Disable TF32, which rounds convolutions and changes metrics.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    interrupted = "interrupted; finished runs are kept, the same command goes on from there"
    return run_command(lambda: run(args), args.debug, interrupted=interrupted, extra="train")


def select(options: BenchmarkOptions, methods: Sequence[str], weights: Sequence[str]) -> BenchmarkOptions:
    """Return the benchmark with fewer methods, or other weights for some.

    Args:
        options: benchmark.
        methods: names to keep; empty for all. Comparisons with other methods are removed.
        weights: entries ``NAME=FILE``; several for one name are training seeds.

    Raises:
        AMDRestoreError: a name is not in the file.
    """
    replaced: dict[str, list[str]] = {}
    for entry in weights:
        name, _, file = entry.partition("=")
        replaced.setdefault(name, []).append(file)
    names = [method.name for method in options.methods]
    for name in (*methods, *replaced):
        if name not in names:
            raise AMDRestoreError(f"no method '{name}' in the option file; {did_you_mean(name, names)}")
    kept = [
        dataclasses.replace(method, weights=replaced.get(method.name, method.weights))
        for method in options.methods
        if not methods or method.name in methods
    ]
    rows = {method.name for method in kept}
    # A row is named "METHOD, N steps".
    pairs = [pair for pair in options.compare if not methods or {pair.a.split(",")[0], pair.b.split(",")[0]} <= rows]
    return dataclasses.replace(options, methods=kept, compare=pairs)


def run(args: argparse.Namespace) -> None:
    """Run the benchmark and write the report.

    Raises:
        AMDRestoreError: any failure, if possible before the first measurement.
    """
    options = select(load_benchmark_options(args.opt), [] if args.keep else args.methods, args.weights)
    folder = args.out or Path("benchmarks") / options.name
    earlier = EarlierReport(folder, options) if args.keep else None
    if earlier is not None:  # Speeds of some rows alone cannot be compared.
        options = dataclasses.replace(options, speed=None)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    test_sets = find_test_sets(options)
    methods = list(build_methods(options))
    check_compare(options, methods)
    absent = find_absent(methods, test_sets)
    kept: list[Result] = []
    if earlier is not None:
        absent, kept = keep_rows(earlier, args.methods, methods, test_sets, absent)
    for one in absent:
        complain(f"{one.method}: not available on {one.dataset}: {one.reason}")
    gaps = {(one.method, one.dataset) for one in absent} | {(one.method.name, one.dataset) for one in kept}
    work = [(method, [one for one in test_sets if (method.name, one.name) not in gaps]) for method in methods]
    wanted, found = {one.name for one in test_sets}, {one.name for _, present in work for one in present}
    missing = wanted - found - {one.dataset for one in kept}
    if missing:
        raise AMDRestoreError(f"no method has results on {', '.join(sorted(missing))}; the lines above say why")
    total = sum(len(method.runs(options)) * sum(map(len, present)) for method, present in work if present)
    with tqdm(total=total, unit="image", disable=None) as bar:

        def progress(name: str) -> None:
            bar.update()
            bar.set_postfix_str(name)

        evaluator = Evaluator(options, folder, args.fresh, args.save_images)
        results = [result for method, present in work if present for result in evaluator([method], present, progress)]
    order = [method.name for method in methods]
    results = sorted([*results, *kept], key=lambda result: order.index(result.method.name))
    weights = {name: digest for method in methods for name, digest in method.describe().items()}
    header = protocol(weights, {test_set.name: test_set.fingerprint() for test_set in test_sets})
    if earlier is not None:
        header["kept"] = earlier.origins(kept)
    # Seconds of kept rows are of another run, so that nothing can be compared with them.
    speeds = [] if kept else speeds_of(options, [method for method, present in work if present], results, header)
    plots = write_plots(folder, options, results, speeds) if options.plots else {}
    absent += [
        Absent("all", name, "the data set is not on disk")
        for name in options.datasets
        if name not in {test_set.name for test_set in test_sets}
    ]
    text = write_report(folder, options, header, results, compare(options, results), absent, speeds, plots)
    say(text)
    also = "; ".join([f"{options.name}_speed.*"] * bool(options.speed) + [file.name for file in plots.values()])
    say(f"written to {folder}/{options.name}.md, .csv and .json{'; ' * bool(also)}{also}")


def keep_rows(
    earlier: EarlierReport,
    chosen: Sequence[str],
    methods: Sequence[Method],
    test_sets: Sequence[TestSet],
    absent: Sequence[Absent],
) -> tuple[list[Absent], list[Result]]:
    """Return what is absent and what stays from the earlier report, where a row is not measured now.

    Args:
        earlier: report.
        chosen: names of methods or rows to measure; empty for those that changed.
        methods: all rows.
        test_sets: data sets.
        absent: rows without images.

    Raises:
        AMDRestoreError: a name is none of a method or row.
    """
    names = [name for method in methods for name in (method.family, method.name)]
    for name in chosen:
        if name not in names:
            raise AMDRestoreError(f"no method or row '{name}' in the option file; {did_you_mean(name, names)}")
    reasons = {(one.method, one.dataset): one.reason for one in absent}
    gaps, kept = [], []
    for method in methods:
        for test_set in test_sets:
            place = method.name, test_set.name
            can_measure = place not in reasons
            if can_measure and {method.name, method.family} & {*chosen}:
                continue
            found = earlier.find(method, test_set)
            if found is not None:
                kept.append(found)
            elif chosen or not can_measure:
                gaps.append(Absent(*place, reasons.get(place, "not measured with these weights and files")))
    return gaps, kept


def find_test_sets(options: BenchmarkOptions) -> list[TestSet]:
    """Return the test sets on disk.

    Raises:
        AMDRestoreError: a required test set is missing, or all are.
    """
    found = []
    for name, dataset in options.datasets.items():
        folders = [Path(folder) for folder in (dataset.gt, dataset.lq) if folder is not None]
        if dataset.optional and not all(folder.is_dir() for folder in folders):
            complain(f"{name}: left out, not on disk")
            continue
        found.append(TestSet(name, dataset, options.scale))
    if not found:
        raise AMDRestoreError(f"none of {', '.join(options.datasets)} is on disk; datasets/README.md says where")
    return found


def speeds_of(
    options: BenchmarkOptions, methods: Sequence[Method], results: Sequence[Result], header: Mapping[str, Any]
) -> list[Speed]:
    """Return the speed of all rows; ours are measured if the option file has ``speed``."""
    if options.speed is None:
        return collect(methods, results, {}, options, header)
    total = len(methods) * (options.speed.warm_up + options.speed.repeats)
    with tqdm(total=total, unit="call", disable=None) as bar:

        def advance(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        measured = measure_speed(methods, options.speed, advance)
    return collect(methods, results, measured, options, header)


if __name__ == "__main__":
    sys.exit(main())
