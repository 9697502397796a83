"""Tables of an ablation: Markdown for people, CSV for plots, JSON for everything."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amd_restore.atomic import write_atomically
from amd_restore.benchmark.ablation.evaluation import ArmResult
from amd_restore.benchmark.ablation.options import AblationOptions
from amd_restore.benchmark.ablation.runs import TrainingRun
from amd_restore.benchmark.ablation.summary import ArmDifference, Cell, compare_arms, split_metrics, summarise_arms
from amd_restore.benchmark.metrics import METRICS, RELATED, USED, marks
from amd_restore.benchmark.provenance import protocol
from amd_restore.benchmark.statistics import Interval
from amd_restore.benchmark.tables import finite, origin_lines
from amd_restore.rewards.weight_files import assets_folder

_ARROWS = {True: "↑", False: "↓"}


def write_tables(
    folder: Path,
    options: AblationOptions,
    results: Sequence[ArmResult],
    runs: Sequence[TrainingRun],
    test_sets: dict[str, str],
) -> str:
    """Write ``NAME.md``, ``.csv`` and ``.json`` into ``folder``; returns the Markdown.

    Args:
        folder: output folder.
        options: ablation.
        results: measurements of finished runs.
        runs: all planned runs, for costs and missing runs.
        test_sets: name -> fingerprint.
    """
    weights = {run.name: run.record()["weights_sha256"] for run in runs if run.finished}
    header = protocol(weights, test_sets)
    cells = summarise_arms(results)
    differences = compare_arms(results, options.references, options.endpoint)
    costs = {run.name: {"arm": run.arm, "seed": run.seed, **run.cost()} for run in runs if run.record()}
    held_out, trained_on = split_metrics(options.evaluation.metrics, results)
    text = "\n".join(
        [
            f"# Ablation {options.name}",
            "",
            *_headline(options, results, differences),
            *_tables(options, results, cells),
            *_difference_lines(differences, [*held_out, *trained_on]),
            *_cost_lines(options, runs),
            *_protocol_lines(options, header),
            "",
        ]
    )
    content = {
        "protocol": header,
        "options": dataclasses.asdict(options),
        "results": [
            {**dataclasses.asdict(one), "values": {name: finite(array.tolist()) for name, array in one.values.items()}}
            for one in results
        ],
        "summary": [finite(dataclasses.asdict(cell)) for cell in cells],
        "differences": [finite(dataclasses.asdict(difference)) for difference in differences],
        "costs": costs,
    }
    serialised = json.dumps(content, indent=1).replace(str(assets_folder()), "${AMD_RESTORE_ASSETS}")
    write_atomically(folder / f"{options.name}.md", text.encode())
    write_atomically(folder / f"{options.name}.csv", _csv(cells).encode())
    write_atomically(folder / f"{options.name}.json", serialised.encode())
    return text


def _headline(
    options: AblationOptions, results: Sequence[ArmResult], differences: Sequence[ArmDifference]
) -> list[str]:
    """Return the verdicts on held-out metrics."""
    held_out, _ = split_metrics(options.evaluation.metrics, results)
    chosen = options.endpoint
    lines = ["## Headline", ""]
    if chosen is None:
        lines += ["No endpoint was declared: everything here is exploratory."]
    else:
        title = METRICS[chosen.metric].title
        lines += [f"Endpoint, declared before the runs: {title} on {chosen.dataset} at {_steps(chosen.steps)}.", ""]
        lines += ["| arm | against | difference | 95% interval over training seeds | p, adjusted | verdict |"]
        lines += ["|---" * 6 + "|"]
        for one in (d for d in differences if d.is_endpoint):
            digits = METRICS[one.metric].digits + 1
            mean, span = f"{one.difference.mean:+.{digits}f}", _span(one.difference, f"+.{digits}f")
            lines.append(f"| {one.arm} | {one.reference} | {mean} | {span} | {one.p:.3g} | {one.verdict} |")
    lines += ["", "Held-out metrics only: no arm was trained on them. Better or worse: p below 5% after Holm's"]
    lines += ["adjustment for all that is compared here.", ""]
    lines += ["| arm | against | test set | steps | better | worse | undecided |", "|---" * 7 + "|"]
    for key in dict.fromkeys((d.arm, d.reference, d.dataset, d.steps) for d in differences):
        judged = [d for d in differences if (d.arm, d.reference, d.dataset, d.steps) == key and d.metric in held_out]
        columns: dict[str, list[str]] = {"better": [], "worse": [], "undecided": []}
        for difference in judged:
            columns[difference.verdict].append(METRICS[difference.metric].title)
        lines.append(f"| {' | '.join([*map(str, key), *(', '.join(names) or '–' for names in columns.values())])} |")
    return [*lines, ""]


def _steps(count: int) -> str:
    return f"{count} step{'s' if count > 1 else ''}"


def _tables(options: AblationOptions, results: Sequence[ArmResult], cells: Sequence[Cell]) -> list[str]:
    held_out, trained_on = split_metrics(options.evaluation.metrics, results)
    by_place = {(cell.arm, cell.dataset, cell.steps, cell.metric): cell for cell in cells}
    lines = []
    for dataset, steps in dict.fromkeys((one.dataset, one.steps) for one in results):
        rows = [one for one in results if (one.dataset, one.steps) == (dataset, steps)]
        lines += [f"## {dataset} ({len(rows[0].images)} images), {_steps(steps)}", ""]
        for title, metrics in (("Held out:", held_out), (f"Rewards or losses of the arms marked {USED}:", trained_on)):
            if not metrics:
                continue
            places = [[by_place[row.arm, dataset, steps, metric] for metric in metrics] for row in rows]
            heads = [f"{METRICS[name].title} {_ARROWS[METRICS[name].higher_is_better]}" for name in metrics]
            lines += [title, "", f"| arm | seeds | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
            for row, place in zip(rows, places, strict=True):
                lines.append(f"| {row.arm} | {len(row.seeds)} | {' | '.join(_value(row, cell) for cell in place)} |")
            lines += ["", "Their 95% intervals over training seeds.", ""]
            lines += [f"| arm | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
            for row, place in zip(rows, places, strict=True):
                lines.append(f"| {row.arm} | {' | '.join(map(_intervals, place))} |")
            lines.append("")
    return lines


def _value(row: ArmResult, cell: Cell) -> str:
    digits = METRICS[cell.metric].digits
    if math.isnan(cell.mean):
        return "–"
    spread = "" if cell.spread is None else f" ± {cell.spread:.{digits}f}"
    return f"{cell.mean:.{digits}f}{spread}{marks(row.rewards).get(cell.metric, '')}"


def _intervals(cell: Cell) -> str:
    digits = METRICS[cell.metric].digits
    if math.isnan(cell.mean):
        return "–"
    return _span(cell.own, f".{digits}f")


def _span(interval: Interval, form: str) -> str:
    """Return the two ends of an interval, or that one training seed has none."""
    return f"{interval.low:{form}} to {interval.high:{form}}" if math.isfinite(interval.low) else "one seed"


def _difference_lines(differences: Sequence[ArmDifference], metrics: Sequence[str]) -> list[str]:
    """Return one table per reference, test set and number of steps."""
    lines = [
        "## Differences",
        "",
        "Arm minus reference, paired by image and training seed, and its 95% t interval over training",
    ]
    lines += ["seeds, not adjusted. ▲ better, ▼ worse: below 5% after the adjustment; held-out metrics only.", ""]
    for key in dict.fromkeys((one.reference, one.dataset, one.steps) for one in differences):
        found = [one for one in differences if (one.reference, one.dataset, one.steps) == key]
        reference, dataset, steps = key
        lines += [f"### Minus {reference}: {dataset}, {_steps(steps)}", ""]
        lines += [f"| arm | {' | '.join(METRICS[name].title for name in metrics)} |", "|---" * (len(metrics) + 1) + "|"]
        for arm in dict.fromkeys(one.arm for one in found):
            of_arm = {one.metric: one for one in found if one.arm == arm}
            lines.append(f"| {arm} | {' | '.join(_difference(of_arm[name]) for name in metrics)} |")
        lines.append("")
    return lines


def _difference(one: ArmDifference) -> str:
    found, digits = one.difference, METRICS[one.metric].digits + 1
    if math.isnan(found.mean):
        return "–"
    sign = {"better": "▲", "worse": "▼", "undecided": ""}[one.verdict]
    return f"{found.mean:+.{digits}f} ({_span(found, f'+.{digits}f')}) {sign}".strip()


def _cost_lines(options: AblationOptions, runs: Sequence[TrainingRun]) -> list[str]:
    lines = ["## Cost", "", "| run | state | iterations | minutes | s / iteration | threads |", "|---" * 6 + "|"]
    for run in runs:
        cost, begun = run.cost(), bool(run.record())
        state = "finished" if run.finished else "not finished" if begun else "not begun"
        pace = "–" if cost["seconds_per_iteration"] is None else f"{cost['seconds_per_iteration']:.2f}"
        row = [run.name, state, str(cost["iterations"]), f"{cost['seconds'] / 60:.1f}", pace, str(cost["threads"])]
        lines.append(f"| {' | '.join(row)} |")
    total = sum(run.cost()["seconds"] for run in runs)
    machines = sorted({run.cost()["machine"] for run in runs} - {""})
    lines += [
        "",
        f"Together {total / 3600:.1f} hours of training, {options.processes} at a time; {'; '.join(machines)}.",
    ]
    return [*lines, ""]


def _protocol_lines(options: AblationOptions, header: dict[str, Any]) -> list[str]:
    block = options.evaluation
    lines = ["## Protocol", ""]
    lines += [
        f"- Arms differ from {Path(options.base).name} in what {options.name} says for each, and in nothing else; "
        f"{options.total_iter} iterations.",
        f"- Outputs rounded to 8 bits; border of {block.crop_border} pixels cut where stated; noise seeds "
        f"{', '.join(map(str, block.noise_seeds))}, averaged first; arithmetic {block.dtype} on {block.device}.",
        "- Values are means over images and training seeds; ± is the standard deviation between training seeds of "
        "the mean over images.",
        "- Intervals: Student's t over training seeds of the mean over images. They say what other seeds would change "
        "on these images, not what other images would. Verdicts: two-sided p, adjusted by Holm's method.",
        f"- {USED} this metric was a reward or a loss of the arm; {RELATED} one of its family was (from the headers "
        "of the weights).",
    ]
    return lines + origin_lines(header, block.metrics, f"{options.num_threads} threads each")


def _csv(cells: Sequence[Cell]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = ["dataset", "steps", "arm", "metric", "mean", "spread", "low", "high"]
    writer.writerow([*heads, "seeds", "images", "mark"])
    for cell in cells:
        row: list[Any] = [cell.dataset, cell.steps, cell.arm, cell.metric, cell.mean, cell.spread]
        row += [cell.own.low, cell.own.high, cell.seeds, cell.images, cell.mark]
        writer.writerow(row)
    return out.getvalue()
