"""Diagrams of training curves: SVG in the page's colours, and a static figure for documents."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from amd_restore.benchmark.drawing import COLORS, pyplot
from amd_restore.report.quantities import Quantity
from amd_restore.report.runs import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DARK_COLORS = ("#5aa9e6", "#f0b429", "#2fc09a", "#e39cc4", "#f08347", "#9ad1f5", "#a8a8a8")
DASHES = ("solid", (0, (6, 1.5)), (0, (2, 1)), (0, (6, 1.5, 1.5, 1.5)))
# Colours in matplotlib's output that are replaced by those of the page.
_INK, _GRID = "#010203", "#040506"
_SIZE = (4.2, 2.6)  # inches

Arms = Mapping[str, Sequence[Mapping[str, Curve]]]  # arm -> curves of each of its runs


def color_of(index: int) -> str:
    """Return the colour of the arm at this place."""
    return COLORS[index % len(COLORS)]


def draw_svg(quantity: Quantity, arms: Arms) -> str:
    """Draw a diagram as an ``<svg>`` element: thin lines are runs, the thick line is their mean.

    Args:
        quantity: quantity to draw.
        arms: curves of all runs.
    """
    plt = pyplot()
    settings = {
        "svg.fonttype": "none",  # keeps text as text
        "svg.hashsalt": quantity.key,  # ids are unique in the page
        "font.family": "sans-serif",
        "text.color": _INK,
        "axes.edgecolor": _GRID,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "grid.color": _GRID,
    }
    with plt.rc_context(settings):
        figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
        draw(axes, quantity, arms)
        axes.set_xlabel("iteration", fontsize=9)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return _themed(out.getvalue(), quantity.title)


def draw(axes: Axes, quantity: Quantity, arms: Arms) -> None:
    """Draw a quantity into ``axes``."""
    for index, runs in enumerate(arms.values()):
        curves = [run[quantity.key] for run in runs if quantity.key in run]
        if not curves:
            continue
        style: dict[str, Any] = {"color": color_of(index), "linestyle": DASHES[index // len(COLORS) % len(DASHES)]}
        for curve in curves:
            axes.plot(curve.iterations, curve.values, **style, linewidth=0.7, alpha=0.35)
        iterations, values = mean_curve(curves)
        marker = "o" if len(iterations) < 8 else None
        axes.plot(iterations, values, **style, linewidth=2.0, marker=marker, markersize=3.5)
        for key in quantity.band or ():
            limit = mean_curve([run[key] for run in runs if key in run])
            axes.plot(*limit, color=style["color"], linewidth=1.1, linestyle=(0, (1, 1.5)))
    if quantity.reference is not None:
        axes.axhline(
            quantity.reference, color=axes.spines["left"].get_edgecolor(), linewidth=1.2, linestyle=(0, (1, 2))
        )
    axes.grid(True, linewidth=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=9, length=0)
    axes.margins(x=0.02)
    axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-3, 4))
    axes.locator_params(axis="x", nbins=6, integer=True, min_n_ticks=1)


def mean_curve(curves: Sequence[Curve]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the mean over runs at their iterations, smoothed over a twentieth of a long curve.

    Returns:
        Iterations (n,) and values (n,).
    """
    iterations = np.unique(np.concatenate([curve.iterations for curve in curves])) if curves else np.array([], np.int64)
    table = np.full((len(curves), len(iterations)), np.nan)
    for row, curve in zip(table, curves, strict=True):
        row[np.searchsorted(iterations, curve.iterations)] = curve.values
    defined = ~np.isnan(table).all(axis=0)
    iterations, means = iterations[defined], np.nanmean(table[:, defined], axis=0) if defined.any() else np.array([])
    reach = len(iterations) // 40
    if reach:
        sums, counts = (np.convolve(v, np.ones(2 * reach + 1), "same") for v in (means, np.ones(len(means))))
        means = sums / counts
    return iterations, means


def last_values(curve: Curve, count: int = 5) -> float:
    """Return the mean of the last defined entries; NaN without any."""
    defined = curve.values[~np.isnan(curve.values)][-count:]
    return float(defined.mean()) if len(defined) else float("nan")


def main_figure(quantities: Sequence[Quantity], arms: Arms, columns: int = 3) -> bytes:
    """Draw a PNG of several diagrams with one legend, for documents."""
    plt = pyplot()
    rows = -(-len(quantities) // columns)
    size = (4.0 * columns, 2.7 * rows + 0.5)
    with plt.rc_context({"grid.color": "#dddddd", "axes.edgecolor": "#999999"}):
        figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
        for axes, quantity in zip(grid.flat, quantities, strict=False):
            draw(axes, quantity, arms)
            axes.set_title(quantity.title, fontsize=10, loc="left")
        for axes in grid.flat[len(quantities) :]:
            axes.set_visible(False)
        for axes in grid[-1]:
            axes.set_xlabel("iteration", fontsize=9)
        styles = [{"color": color_of(i), "linestyle": DASHES[i // len(COLORS) % len(DASHES)]} for i in range(len(arms))]
        handles = [plt.Line2D([], [], linewidth=2, **style) for style in styles]
        below = {"loc": "outside lower center", "ncols": min(len(arms), 6)}
        figure.legend(handles, list(arms), **below, frameon=False, fontsize=9)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
        plt.close(figure)
    return out.getvalue()


def _themed(svg: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    svg = re.sub(r' (?:d|x|y|points|transform)="[^"]*"', lambda match: _rounded(match[0]), svg)
    names = {_INK: "ink", _GRID: "grid"} | {color: f"c{index}" for index, color in enumerate(COLORS)}
    for color, name in names.items():
        svg = svg.replace(color, f"var(--{name})")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # unused names of groups, the same in every diagram
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)


def _rounded(attribute: str) -> str:
    """Round coordinates to a hundredth of a point, which makes the file smaller."""
    return re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", attribute)
