"""Validation metrics over the training compute of all stages of a recipe."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amd_restore.errors import AMDRestoreError
from amd_restore.report.curves import COLORS, pyplot
from amd_restore.report.runs import ReportRun

METRICS = ("lpips", "psnr")  # names of metrics in option files
TITLES = {"lpips": "LPIPS, lower is better", "psnr": "PSNR-Y, dB, higher is better"}
AXES = {"hours": "thread-hours", "crops": "training crops, thousands"}
MARKERS = ("o", "s", "^", "D")
LINES = ("solid", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))


@dataclass(frozen=True)
class Row:
    """Validation result.

    Attributes:
        stage: name of the run.
        iteration: iteration in that run.
        hours: training hours times threads, of this and all earlier stages.
        crops: training crops used in these, thousands.
        dataset: validation set.
        metric: of :data:`METRICS`.
        steps: number of steps.
        value: value of the metric.
    """

    stage: str
    iteration: int
    hours: float
    crops: float
    dataset: str
    metric: str
    steps: int
    value: float


def stages(runs: Sequence[ReportRun]) -> list[Row]:
    """Return validations of consecutive runs, each starting from the one before.

    Compute is training time (without validation and saving) times ``num_threads`` of the option file, and iterations
    times the batch of the training set; a group of a student counts as one crop.

    Raises:
        AMDRestoreError: no run has a validation with one of the metrics.
    """
    rows, hours, crops = [], 0.0, 0.0
    for run in runs:
        threads = int(run.options.get("num_threads") or 1)
        train = (run.options.get("datasets") or {}).get("train") or {}
        batch = int(train.get("batch_size_per_gpu") or 1)
        for row in run.rows:
            for dataset, values in (row.get("validation") or {}).items():
                for key, value in values.items():
                    metric, _, steps = key.partition("@")
                    if metric not in METRICS or value is None or not steps.isdigit():
                        continue
                    spent = hours + float(row.get("seconds") or 0.0) * threads / 3600
                    seen = crops + int(row["iter"]) * batch / 1000
                    place = (run.name, int(row["iter"]), spent, seen)
                    rows.append(Row(*place, dataset, metric, int(steps), float(value)))
        hours, crops = hours + run.seconds * threads / 3600, crops + run.iterations * batch / 1000
    if not rows:
        raise AMDRestoreError("no run has a validation with psnr or lpips in its diagnostics; there is nothing to draw")
    return rows


def compute_csv(rows: Sequence[Row]) -> str:
    """Return one line per validation."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["stage", "iteration", "thread_hours", "kilocrops", "dataset", "metric", "steps", "value"])
    for row in rows:
        spent = [f"{row.hours:.4f}", f"{row.crops:.3f}"]
        writer.writerow([row.stage, row.iteration, *spent, row.dataset, row.metric, row.steps, row.value])
    return out.getvalue()


def compute_figure(rows: Sequence[Row], axis: str = "hours") -> bytes:
    """Draw a PNG: a panel per metric and validation set, a colour per stage, a dash per number of steps.

    Args:
        rows: result of :func:`stages`.
        axis: ``hours`` or ``crops``.
    """
    plt = pyplot()
    panels = [
        (dataset, metric)
        for dataset in dict.fromkeys(row.dataset for row in rows)
        for metric in METRICS
        if any(row.dataset == dataset and row.metric == metric for row in rows)
    ]
    names = list(dict.fromkeys(row.stage for row in rows))
    lengths = sorted({row.steps for row in rows})
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    with plt.rc_context({"axes.edgecolor": "#999999"}):
        size = (5.6 * columns, 3.6 * lines + 0.6)
        figure, grid = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
        for axes, (dataset, metric) in zip(grid.flat, panels, strict=False):
            here = [row for row in rows if (row.dataset, row.metric) == (dataset, metric)]
            for index, stage in enumerate(names):
                for number, steps in enumerate(lengths):
                    of_line = [row for row in here if (row.stage, row.steps) == (stage, steps)]
                    style: dict[str, Any] = {"color": COLORS[index % len(COLORS)], "linestyle": LINES[number % 4]}
                    xs = [getattr(row, axis) for row in of_line]
                    style["marker"] = MARKERS[number % 4]
                    axes.plot(xs, [row.value for row in of_line], **style, markersize=4, linewidth=1.6)
            axes.set_title(f"{dataset}: {TITLES[metric]}", fontsize=10, loc="left")
            axes.set_xlabel(AXES[axis], fontsize=9)
            axes.grid(True, linewidth=0.5, color="#e2e5e9")
            axes.set_axisbelow(True)
            axes.tick_params(labelsize=8, length=0)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        handles = [plt.Line2D([], [], color=COLORS[i % len(COLORS)], linewidth=2) for i in range(len(names))]
        for n in range(len(lengths)):
            style = {"linestyle": LINES[n % 4], "marker": MARKERS[n % 4], "markersize": 4}
            handles.append(plt.Line2D([], [], color="#555555", **style))
        titles = [*names, *(f"{steps} step{'s' * (steps > 1)}" for steps in lengths)]
        widest = max(map(len, titles))
        ncols = max(1, min(len(titles), math.floor(95 * columns / 2 / (widest + 6))))
        figure.legend(handles, titles, loc="outside lower center", ncols=ncols, frameon=False, fontsize=8)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
        plt.close(figure)
    return out.getvalue()
