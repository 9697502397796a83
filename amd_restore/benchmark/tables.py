"""Markdown for people, CSV for plots, JSON for everything."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amd_restore.atomic import write_atomically
from amd_restore.benchmark.absent import Absent
from amd_restore.benchmark.evaluate import Result
from amd_restore.benchmark.methods import Method
from amd_restore.benchmark.metrics import METRICS, RELATED, USED, marks
from amd_restore.benchmark.options import BenchmarkOptions
from amd_restore.benchmark.speed import Speed, is_timed, speed_csv, speed_json, speed_markdown
from amd_restore.benchmark.statistics import Interval, paired_difference, summarise
from amd_restore.errors import AMDRestoreError
from amd_restore.rewards.weight_files import assets_folder

Comparison = tuple[str, str, str, str, Interval]  # a, b, dataset, metric


def check_compare(options: BenchmarkOptions, methods: Sequence[Method]) -> None:
    """Check before measuring that ``compare`` of the option file names rows.

    Raises:
        AMDRestoreError: a name is not a row.
    """
    rows = [method.name for method in methods]
    for name in (name for wanted in options.compare for name in (wanted.a, wanted.b)):
        if name not in rows:
            raise AMDRestoreError(f"compare: no row '{name}'; rows: {'; '.join(rows)}")


def compare(options: BenchmarkOptions, results: Sequence[Result]) -> list[Comparison]:
    """Return the differences in ``compare`` of the option file, if both rows have results."""
    by_row = {(result.method.name, result.dataset): result for result in results}
    found = []
    for wanted in options.compare:
        for dataset in options.datasets:
            if (wanted.a, dataset) not in by_row or (wanted.b, dataset) not in by_row:
                continue
            a, b = by_row[wanted.a, dataset], by_row[wanted.b, dataset]
            for metric in options.metrics:
                difference = paired_difference(a.values[metric], b.values[metric], over="images")
                if not math.isnan(difference.mean):  # The metric needs a ground truth, which this set does not have.
                    found.append((wanted.a, wanted.b, dataset, metric, difference))
    return found


def write_report(
    folder: Path,
    options: BenchmarkOptions,
    protocol: dict[str, Any],
    results: Sequence[Result],
    comparisons: Sequence[Comparison],
    absent: Sequence[Absent] = (),
    speeds: Sequence[Speed] = (),
    plots: Mapping[str, Path] | None = None,
) -> str:
    """Write ``NAME.md``, ``.csv`` and ``.json`` into ``folder``, and optionally those of ``NAME_speed``.

    Returns:
        The Markdown of both.
    """
    text = markdown(options, protocol, results, comparisons, absent, plots)
    write_atomically(folder / f"{options.name}.md", text.encode())
    write_atomically(folder / f"{options.name}.csv", _csv(options, results, absent).encode())
    content = {
        "protocol": protocol,
        "options": dataclasses.asdict(options),
        "results": [
            {
                "method": result.method.name,
                "rewards": result.method.rewards,
                "dataset": result.dataset,
                "images": result.images,
                "seconds": result.seconds.tolist() if is_timed(result) else None,
                "values": {metric: finite(values.tolist()) for metric, values in result.values.items()},
            }
            for result in results
        ],
        "comparisons": [
            {"a": a, "b": b, "dataset": dataset, "metric": metric, **dataclasses.asdict(difference)}
            for a, b, dataset, metric, difference in comparisons
        ],
        "absent": [dataclasses.asdict(one) for one in absent],
    }
    # Published results name the asset folder by its variable instead of a path on one machine.
    serialised = json.dumps(content, indent=1).replace(str(assets_folder()), "${AMD_RESTORE_ASSETS}")
    write_atomically(folder / f"{options.name}.json", serialised.encode())
    if options.speed is None:
        return text
    table = speed_markdown(speeds, options)
    write_atomically(folder / f"{options.name}_speed.md", table.encode())
    write_atomically(folder / f"{options.name}_speed.csv", speed_csv(speeds, options).encode())
    write_atomically(folder / f"{options.name}_speed.json", speed_json(speeds, options, protocol).encode())
    return f"{text}\n{table}"


def markdown(
    options: BenchmarkOptions,
    protocol: dict[str, Any],
    results: Sequence[Result],
    comparisons: Sequence[Comparison],
    absent: Sequence[Absent] = (),
    plots: Mapping[str, Path] | None = None,
) -> str:
    """Return the report as Markdown: tables per test set, held-out metrics first, differences and protocol."""
    lines = [f"# Benchmark {options.name}", ""]
    lines += [line for title, file in (plots or {}).items() for line in (f"![{title}]({file.name})", "")]
    if options.speed is not None:
        lines += [f"Seconds on one input size: [{options.name}_speed.md]({options.name}_speed.md)", ""]
    used = {metric for result in results for metric, mark in marks(result.method.rewards).items() if mark == USED}
    held_out = [metric for metric in options.metrics if metric not in used]
    trained_on = [metric for metric in options.metrics if metric in used]
    for dataset in options.datasets:
        rows = [result for result in results if result.dataset == dataset]
        if not rows:
            continue
        lines += [f"## {dataset} ({len(rows[0].images)} images)", ""]
        here = [metric for metric in held_out if _is_defined(rows, metric)]
        spoilt = [metric for metric in trained_on if _is_defined(rows, metric)]
        if spoilt and here:
            lines += ["Held out: no row was trained on these metrics.", ""]
        lines += _table(rows, here, with_time=True) if here else []
        if spoilt:
            lines += [f"Trained on by the rows marked {USED}; not a fair comparison.", ""]
            lines += _table(rows, spoilt, with_time=not here)
        gaps = [one for one in absent if one.dataset == dataset]
        if gaps:
            lines += ["| not available | why |", "|---|---|", *(f"| {one.method} | {one.reason} |" for one in gaps), ""]
    left_out = [one.dataset for one in absent if one.dataset not in {result.dataset for result in results}]
    if left_out:
        lines += [f"Not on disk, hence left out: {', '.join(dict.fromkeys(left_out))}.", ""]
    lines += _comparison_lines(comparisons) + _protocol_lines(options, protocol, results)
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Result], metrics: Sequence[str], with_time: bool) -> list[str]:
    arrows = {True: "↑", False: "↓"}
    head = [f"{METRICS[name].title} {arrows[METRICS[name].higher_is_better]}" for name in metrics]
    head += ["s / image"] if with_time else []
    lines = [f"| method | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for row in rows:
        cells = [_cell(row, name) for name in metrics]
        cells += [f"{row.seconds.mean():.2f}" if is_timed(row) else "–"] if with_time else []
        lines.append(f"| {row.method.name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _is_defined(rows: Sequence[Result], metric: str) -> bool:
    """Return whether any row has a value; without ground truth most metrics have none."""
    return any(not math.isnan(summarise(row.values[metric]).mean) for row in rows)


def _cell(row: Result, name: str) -> str:
    summary, digits = summarise(row.values[name]), METRICS[name].digits
    if math.isnan(summary.mean):
        return "–"
    spread = "" if summary.spread is None else f" ± {summary.spread:.{digits}f}"
    return f"{summary.mean:.{digits}f}{spread}{marks(row.method.rewards).get(name, '')}"


def _comparison_lines(comparisons: Sequence[Comparison]) -> list[str]:
    if not comparisons:
        return []
    lines = [
        "## Differences",
        "",
        "Mean of a - b with its 95% t interval over images, runs averaged first; bold where the",
    ]
    lines += [
        "interval leaves zero out. Other images, the same weights: nothing is said about other training seeds.",
        "",
    ]
    lines += ["| a | b | test set | metric | a - b | interval |", "|---" * 6 + "|"]
    for a, b, dataset, metric, difference in comparisons:
        digits = METRICS[metric].digits + 1
        mean = f"{difference.mean:+.{digits}f}"
        mean = f"**{mean}**" if difference.decided else mean
        interval = f"{difference.low:+.{digits}f} to {difference.high:+.{digits}f}"
        lines.append(f"| {a} | {b} | {dataset} | {METRICS[metric].title} | {mean} | {interval} |")
    return [*lines, ""]


def _protocol_lines(options: BenchmarkOptions, protocol: dict[str, Any], results: Sequence[Result]) -> list[str]:
    runs = sorted({len(result.seconds) for result in results})
    lines = ["## Protocol", ""]
    lines += [
        f"- x{options.scale}; outputs rounded to 8 bits; border of {options.crop_border} pixels cut where stated; "
        f"noise seeds {', '.join(map(str, options.seeds))}; arithmetic {options.dtype} on {options.device}.",
        "- Values are means over images and runs; ± is the standard deviation between runs (noise seeds, and "
        f"training seeds where a row has several) of the mean over images. Runs per row: {runs}.",
        f"- {USED} this metric was a reward or a loss of the row; {RELATED} one of its family was.",
        "- Seconds per image: the restoration alone, at the time it was first measured on this machine; – where "
        "results were read from a folder.",
    ]
    lines += origin_lines(protocol, options.metrics, f"{protocol['threads']} threads")
    lines += [f"- LPIPS backbone {net}: SHA-256 {digest[:16]}" for net, digest in protocol["lpips_backbones"].items()]
    return lines


def origin_lines(protocol: dict[str, Any], metrics: Sequence[str], threads: str) -> list[str]:
    """Return lines about the metrics, machine, versions and weights of a table."""
    return [
        *(f"- {METRICS[name].title}: {METRICS[name].protocol}." for name in metrics),
        f"- {protocol['date']}, commit {protocol['commit']}, {protocol['machine']}, {threads}.",
        *(
            f"- Kept from {one['date']}, commit {one['commit']}, {one['machine']}: {'; '.join(one['rows'])}."
            for one in protocol.get("kept", [])
        ),
        f"- {', '.join(f'{name} {version}' for name, version in protocol['versions'].items())}.",
        *(f"- Weights {name}: SHA-256 {digest[:16]}" for name, digest in protocol["weights"].items()),
    ]


def _csv(options: BenchmarkOptions, results: Sequence[Result], absent: Sequence[Absent]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["dataset", "method", "metric", "mean", "spread", "runs", "images", "mark"])
    for result in results:
        shown = marks(result.method.rewards)
        sizes = [len(result.seconds), len(result.images)]
        for metric in options.metrics:
            summary = summarise(result.values[metric])
            row = [result.dataset, result.method.name, metric, summary.mean, summary.spread]
            writer.writerow([*row, *sizes, shown.get(metric, "")])
        if is_timed(result):
            row = [result.dataset, result.method.name, "seconds", result.seconds.mean(), ""]
            writer.writerow([*row, *sizes, ""])
    for one in absent:
        writer.writerow([one.dataset, one.method, "absent", "", "", 0, 0, one.reason])
    return out.getvalue()


def finite(value: Any) -> Any:
    """Replace NaN inside ``value`` by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
