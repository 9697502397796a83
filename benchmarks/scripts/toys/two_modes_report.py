"""The table and the figure of `two_modes.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from amd_restore.benchmark.statistics import Interval, paired_difference

if TYPE_CHECKING:
    from two_modes import Run

LOST = 0.05  # a mode that holds less than this share is lost
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
COLUMNS = {"low": "low density", "smaller": "smaller mode", "right": "right mode", "w1": "W1"}
COLOURS = {"DMD": "#404040", "+ adaptation": "#c2571a", "+ sharpening": "#2a78b8", "AMD": "#2c8a4b"}


def values(history: NDArray[np.float64], column: str) -> NDArray[np.float64]:
    """One column of ``COLUMNS`` from measures (..., 4, seeds): (..., seeds)."""
    left, right, low, distance = np.moveaxis(history, -2, 0)
    return {"low": low, "smaller": np.minimum(left, right), "right": right, "w1": distance}[column]


def table(results: dict[str, dict[str, Run]], titles: dict[str, str]) -> str:
    """Markdown: the state after the last update, mean and deviation over seeds, and the difference to DMD."""
    lines = [
        "| setting | method | " + " | ".join(COLUMNS.values()) + " | modes lost | low density - DMD | W1 - DMD |",
        "|---" * (len(COLUMNS) + 5) + "|",
    ]
    for name, runs in results.items():
        title = titles[name]
        for method, run in runs.items():
            last = {column: values(run.history[-1], column) for column in COLUMNS}
            cells = [f"{v.mean():.3f} ± {v.std(ddof=1) if len(v) > 1 else 0:.3f}" for v in last.values()]
            cells.append(f"{int((last['smaller'] < LOST).sum())} of {len(last['smaller'])}")
            for column in ("low", "w1"):
                base = values(runs["DMD"].history[-1], column)
                pair = (last[column][:, None], base[:, None])
                cells.append("" if method == "DMD" else _signed(paired_difference(*pair, over="runs")))
            lines.append(f"| {title} | {method} | " + " | ".join(cells) + " |")
            title = ""
    return "\n".join(lines) + "\n"


def _signed(difference: Interval) -> str:
    mark = "**" if difference.decided else ""
    return f"{mark}{difference.mean:+.3f}{mark} ({difference.low:+.3f} to {difference.high:+.3f})"


def write_table(text: str, path: Path) -> None:
    """Replace what stands between the markers in ``path``.

    Raises:
        SystemExit: the file or its markers are missing.
    """
    pattern = re.compile(re.escape(BEGIN) + r"\n.*?" + re.escape(END), re.DOTALL)
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not pattern.search(page):
        raise SystemExit(f"{path}: no lines '{BEGIN}' and '{END}', between which the table goes")
    path.write_text(pattern.sub(lambda _: f"{BEGIN}\n{text}{END}", page), encoding="utf-8")


# ---- figure ---------------------------------------------------------------------------------------------------------

# setting, heading, column over time, its axis label
PANELS = (
    ("recipe", "Teacher as trained", "low", "share in low density"),
    ("stall", "Teacher unreliable in low density", "low", "share in low density"),
    ("one_mode", "Start on the left mode", "smaller", "mass of the smaller mode"),
    ("biased", "Reward that prefers the right mode", "right", "mass of the right mode"),
)


def figure(results: dict[str, dict[str, Run]], path: Path, every: int) -> None:
    """Write the picture: final densities above, one measure over the updates below; bands span all seeds."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#808080"}
    with plt.rc_context(style):
        plot, axes = plt.subplots(2, len(PANELS), figsize=(13.0, 5.6), layout="constrained")
        for (name, heading, column, label), upper, lower in zip(PANELS, *axes, strict=True):
            _densities(upper, results[name])
            if name == "stall":
                upper.annotate("stalled here", (0.0, 0.56), (0.0, 0.75), ha="center", arrowprops={"arrowstyle": "->"})
            upper.set_title(heading, loc="left", fontsize=10, fontweight="bold")
            _over_time(lower, results[name], column, every)
            lower.set_title(label, loc="left", fontsize=9)
            lower.set_xlabel("updates of the student")
        axes[0, 0].set_ylabel("density after the last update")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        plot.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=10)
        path.parent.mkdir(parents=True, exist_ok=True)
        plot.savefig(path, dpi=110, facecolor="white", metadata={"Software": None})
        plt.close(plot)


def _densities(axis: Any, runs: dict[str, Run]) -> None:
    from two_modes import MODES, STD

    grid = np.linspace(-4.0, 4.0, 401)
    normal = [np.exp(-0.5 * ((grid - mode) / STD) ** 2) / (STD * np.sqrt(2 * np.pi)) for mode in MODES]
    axis.fill_between(grid, np.mean(normal, axis=0), color="#dcdcdc", linewidth=0, label="data")
    for method, colour in COLOURS.items():
        counts, edges = np.histogram(runs[method].samples, bins=56, range=(-4.0, 4.0))
        density = counts / runs[method].samples.size / (edges[1] - edges[0])
        axis.plot((edges[1:] + edges[:-1]) / 2, density, color=colour, linewidth=1.4, label=method)
    axis.set(xlim=(-4.0, 4.0), ylim=(0.0, 1.0), yticks=[], xticks=[-4, -2, 0, 2, 4])
    axis.spines["left"].set_visible(False)


def _over_time(axis: Any, runs: dict[str, Run], column: str, every: int) -> None:
    for method, colour in COLOURS.items():
        series = values(runs[method].history, column)
        updates = every * np.arange(len(series))
        axis.fill_between(updates, series.min(axis=1), series.max(axis=1), color=colour, alpha=0.13, linewidth=0)
        axis.plot(updates, series.mean(axis=1), color=colour, linewidth=1.6)
    if column != "low":
        axis.axhline(0.5, color="#808080", linewidth=0.8, linestyle=(0, (4, 3)))
    axis.set(xlim=(0, every * (len(series) - 1)), ylim=(0.0, {"low": 0.7, "smaller": 0.55, "right": 1.0}[column]))
