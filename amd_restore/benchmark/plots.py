"""Diagrams of the tables: perception against distortion, and quality against seconds."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amd_restore.atomic import write_atomically
from amd_restore.benchmark.drawing import COLORS, pyplot
from amd_restore.benchmark.evaluate import Result
from amd_restore.benchmark.labels import place_labels
from amd_restore.benchmark.methods import Weights
from amd_restore.benchmark.metrics import METRICS
from amd_restore.benchmark.options import BenchmarkOptions
from amd_restore.benchmark.speed import Speed
from amd_restore.benchmark.statistics import summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PERCEPTION = ("lpips_alex", "effnet", "dists", "lpips_squeeze", "niqe", "brisque")  # in order of preference
DISTORTION = "psnr_y"
OTHERS = "#5b6470"  # other methods
SUFFIXES = ("png", "svg")
_PANEL = (6.2, 4.6)  # inches


@dataclass(frozen=True)
class Point:
    """Row in a diagram; rows of one family are joined by a line."""

    name: str
    family: str
    ours: bool
    x: float
    y: float


@dataclass(frozen=True)
class Panel:
    """Diagram of one test set."""

    title: str
    x_title: str
    y_title: str
    points: Sequence[Point]
    log_x: bool = False


def perception_distortion(options: BenchmarkOptions, results: Sequence[Result]) -> list[Panel]:
    """Return a panel for each test set with a ground truth, if the benchmark has both kinds of metrics."""
    panels = []
    for dataset in options.datasets:
        rows = [result for result in results if result.dataset == dataset]
        metric = _perception(options, rows)
        if DISTORTION not in options.metrics or metric is None or not METRICS[metric].needs_gt:
            continue
        points = _points((row, _mean(row, DISTORTION), _mean(row, metric)) for row in rows)
        if points:
            panels.append(Panel(dataset, f"{METRICS[DISTORTION].title}, dB →", _axis(metric), points))
    return panels


def quality_seconds(options: BenchmarkOptions, results: Sequence[Result], speeds: Sequence[Speed]) -> list[Panel]:
    """Return a panel for each test set, with the rows whose seconds are known."""
    panels, by_row = [], {speed.method: speed for speed in speeds}
    for dataset in options.datasets:
        # One input size is more comparable, if as many rows have it.
        fixed = sum(s.seconds is not None for s in speeds) >= sum(dataset in s.per_image for s in speeds)
        rows = [result for result in results if result.dataset == dataset and result.method.name in by_row]
        metric = _perception(options, rows)
        if metric is None:
            continue

        def seconds(row: Result, dataset: str = dataset, fixed: bool = fixed) -> float:
            speed = by_row[row.method.name]
            value = speed.seconds if fixed else speed.per_image.get(dataset)
            return value or math.nan

        points = _points((row, seconds(row), _mean(row, metric)) for row in rows)
        if points:
            title = _side_title(options) if fixed else "seconds per image (median)"
            panels.append(Panel(dataset, f"← {title}", _axis(metric), points, log_x=True))
    return panels


def write_plots(
    folder: Path, options: BenchmarkOptions, results: Sequence[Result], speeds: Sequence[Speed]
) -> dict[str, Path]:
    """Write ``NAME_perception_distortion`` and ``NAME_quality_seconds`` as PNG and SVG, if they have points.

    Returns:
        Title -> PNG.

    Raises:
        AMDRestoreError: matplotlib is missing.
    """
    drawn = {
        "Perception against distortion": ("perception_distortion", perception_distortion(options, results)),
        "Quality against seconds": ("quality_seconds", quality_seconds(options, results, speeds)),
    }
    written = {}
    for title, (name, panels) in drawn.items():
        if not panels:
            continue
        for suffix, data in draw(panels).items():
            write_atomically(folder / f"{options.name}_{name}.{suffix}", data)
        written[title] = folder / f"{options.name}_{name}.png"
    return written


def draw(panels: Sequence[Panel]) -> dict[str, bytes]:
    """Draw the panels, two in a row: format -> file. Better is further up; colours are families."""
    plt = pyplot()
    ours = list(dict.fromkeys(point.family for panel in panels for point in panel.points if point.ours))
    colors = {family: COLORS[index % len(COLORS)] for index, family in enumerate(ours)}
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    settings = {"svg.fonttype": "none", "svg.hashsalt": "benchmark", "axes.edgecolor": "#999999"}
    with plt.rc_context(settings):
        size = (_PANEL[0] * columns, _PANEL[1] * rows)
        figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, dpi=110)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, panel, colors)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        figure.canvas.draw()  # Fix the layout before placing labels.
        figure.set_layout_engine("none")
        for axes, panel in zip(grid.flat, panels, strict=False):
            labels = [(p.name, p.x, p.y, colors.get(p.family, OTHERS)) for p in panel.points]
            lines = [[(p.x, p.y) for p in panel.points if p.family == family] for family in ours]
            place_labels(axes, labels, lines)
        files = {}
        metadata: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
        for suffix in SUFFIXES:
            out = io.BytesIO()
            figure.savefig(out, format=suffix, metadata=metadata[suffix])
            files[suffix] = out.getvalue()
        plt.close(figure)
    return files


def _draw_panel(axes: Axes, panel: Panel, colors: Mapping[str, str]) -> None:
    families: dict[str, list[Point]] = {}
    for point in panel.points:
        families.setdefault(point.family, []).append(point)
    for family, points in families.items():
        if family in colors:
            xs, ys = [p.x for p in points], [p.y for p in points]
            axes.plot(xs, ys, color=colors[family], linewidth=1.2, marker="o", markersize=6)
        else:
            for point in points:
                axes.plot(point.x, point.y, color=OTHERS, marker="s", markersize=5, linestyle="")
    axes.set_title(panel.title, fontsize=11, loc="left")
    axes.set_xlabel(panel.x_title, fontsize=9)
    axes.set_ylabel(panel.y_title, fontsize=9)
    if panel.log_x:
        axes.set_xscale("log")
        xs = [point.x for point in panel.points]
        few = max(xs) < 15 * min(xs)  # An axis of about one decade needs labels between powers of ten.
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if few and f"{x:e}"[0] in "235" else "")
    axes.invert_yaxis()  # All perceptual metrics here are lower for better quality.
    axes.margins(0.14)
    axes.grid(True, linewidth=0.5, color="#e2e5e9")
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=8, length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _points(rows: Any) -> list[Point]:
    """Return points of (result, x, y) that are defined."""
    return [
        Point(row.method.name, row.method.family, isinstance(row.method, Weights), x, y)
        for row, x, y in rows
        if math.isfinite(x) and math.isfinite(y)
    ]


def _mean(row: Result, metric: str) -> float:
    return summarise(row.values[metric]).mean


def _perception(options: BenchmarkOptions, rows: Sequence[Result]) -> str | None:
    """Return the first perceptual metric with values in these rows."""
    wanted = [metric for metric in PERCEPTION if metric in options.metrics]
    return next((metric for metric in wanted if any(math.isfinite(_mean(row, metric)) for row in rows)), None)


def _axis(metric: str) -> str:
    return f"{METRICS[metric].title}, lower is better →"


def _side_title(options: BenchmarkOptions) -> str:
    side = options.speed.side if options.speed else 128
    return f"seconds, {side}x{side} → {side * options.scale}x{side * options.scale} (median, log)"
