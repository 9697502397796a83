"""Pictures of an ablation of AMD: what its zones have to do with its gain, and what it trades for what.

    python benchmarks/scripts/amd_plots.py RESULTS.json [MORE.json …] [--experiments FOLDER] [--out FOLDER]

- NAME_gain.png: gain over the first reference, by the share of locations where the teacher is better; small marks are
  seeds, large ones their means, hollow ones permuted controls.
- NAME_cosine.png: cosine between H and ``gt - x`` inside and outside that zone, over the iterations; mean and range of
  the seeds.
- NAME_tradeoff.png: PSNR-Y against perceptual metrics, as differences from the first reference; with standard errors
  where there are several seeds.

Further results add the arms that the first has not; they must be of the same setting.

Needs the results of ``python -m amd_restore.benchmark.ablation`` and the ``diagnostics.jsonl`` of its runs. The
pictures are transparent, for light and dark pages.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from amd_restore.atomic import write_atomically
from amd_restore.benchmark.drawing import COLORS, pyplot
from amd_restore.benchmark.labels import place_labels
from amd_restore.benchmark.metrics import METRICS
from amd_restore.errors import AMDRestoreError, run_command, say
from amd_restore.models.diagnostics import FILE_NAME, read_diagnostics
from amd_restore.options import merge

TEXT = "#767676"  # legible on white and on black
PERCEPTION = ("lpips_alex", "brisque")
DISTORTION = "psnr_y"
SETTING = ("base", "total_iter", "overrides", "evaluation")
FAMILIES = {"DMD, by weight": COLORS[0], "DMD, varied": COLORS[5], "guidance": COLORS[2], "AMD": COLORS[4]}


@dataclass(frozen=True)
class Arm:
    """An arm with its block ``distill``, as far as the ablation sets it."""

    name: str
    distill: dict[str, Any]

    @property
    def is_amd(self) -> bool:
        """Return whether advantages weigh anything."""
        return bool(self.distill.get("adaptation_strength") or self.distill.get("sharpening_strength"))

    @property
    def is_control(self) -> bool:
        """Return whether samples get the advantages of others."""
        return bool(self.distill.get("permute_advantage"))

    @property
    def is_relative(self) -> bool:
        """Return whether samples are compared with the teacher's."""
        return self.is_amd and self.distill.get("advantage") == "teacher"


class Ablation:
    """Results of an ablation, and the diagnostics of its runs.

    Args:
        file: ``NAME.json``.
        experiments: folder of the runs.

    Raises:
        AMDRestoreError: the file is no results of an ablation.
    """

    def __init__(self, file: Path, experiments: Path) -> None:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            options, self.results, self.costs = content["options"], content["results"], content["costs"]
            self.setting = {key: options[key] for key in SETTING}
        except (OSError, ValueError, KeyError) as error:
            raise AMDRestoreError(f"{file}: no results of an ablation ({type(error).__name__}: {error})") from error
        self.name, self.experiments = str(options["name"]), experiments
        common = options["overrides"].get("distill", {})
        self.arms = [Arm(name, merge(common, arm.get("distill", {}))) for name, arm in options["arms"].items()]
        self.own_keys = {
            name: set(arm.get("distill", {})) | (set(arm) - {"distill"}) for name, arm in options["arms"].items()
        }
        self.references = options["compare_to"] or [self.arms[0].name]
        endpoint = options["endpoint"] or {}
        self.dataset = endpoint.get("dataset", self.datasets[0])
        self.steps = endpoint.get("steps", self.results[0]["steps"])
        self.metric = endpoint.get("metric", PERCEPTION[0])

    def add(self, other: Ablation) -> None:
        """Add the arms of another ablation that this one has not.

        Raises:
            AMDRestoreError: the other one trained or evaluated something else.
        """
        differing = [key for key in SETTING if self.setting[key] != other.setting[key]]
        if differing:
            raise AMDRestoreError(f"{other.name}: another setting than {self.name} ({', '.join(differing)})")
        new = {arm.name for arm in other.arms} - {arm.name for arm in self.arms}
        self.arms += [arm for arm in other.arms if arm.name in new]
        self.own_keys |= {name: keys for name, keys in other.own_keys.items() if name in new}
        self.results += [row for row in other.results if row["arm"] in new]
        self.costs |= {run: cost for run, cost in other.costs.items() if cost["arm"] in new}

    @property
    def datasets(self) -> list[str]:
        """Return the names of the test sets, in order."""
        return list(dict.fromkeys(row["dataset"] for row in self.results))

    def by_seed(self, arm: str, dataset: str, metric: str) -> dict[int, float]:
        """Return the mean over images for each training seed; empty without results."""
        for row in self.results:
            if (row["arm"], row["dataset"], row["steps"]) == (arm, dataset, self.steps) and metric in row["values"]:
                values = np.array(row["values"][metric], dtype=float)  # (seeds, images)
                return dict(zip(row["seeds"], np.nanmean(values, axis=1).tolist(), strict=True))
        return {}

    def differences(self, arm: str, dataset: str, metric: str) -> dict[int, float]:
        """Return the differences from the first reference, of the seeds that both have."""
        ours, theirs = self.by_seed(arm, dataset, metric), self.by_seed(self.references[0], dataset, metric)
        return {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}

    def gains(self, arm: str) -> dict[int, float]:
        """Return by how much each seed of an arm is better at the endpoint than the first reference."""
        sign = 1.0 if METRICS[self.metric].higher_is_better else -1.0
        return {seed: sign * value for seed, value in self.differences(arm, self.dataset, self.metric).items()}

    def logged(self, arm: str, key: str) -> dict[int, list[tuple[int, float]]]:
        """Return (iteration, value) of a logged quantity by seed, of the runs that have it."""
        found = {}
        for run, cost in self.costs.items():
            file = self.experiments / run / FILE_NAME
            if cost["arm"] == arm and file.is_file():
                rows = [(row["iter"], row["values"].get(key)) for row in read_diagnostics(file) if "values" in row]
                found[int(cost["seed"])] = [(it, value) for it, value in rows if value is not None]
        return {seed: rows for seed, rows in found.items() if rows}

    def share(self, arm: str) -> dict[int, float]:
        """Return the mean share of locations (or images) where the teacher is better, by seed."""
        logged = self.logged(arm, "amd/forbidden_share")
        return {seed: float(np.mean([value for _, value in rows])) for seed, rows in logged.items()}

    def family(self, arm: Arm) -> str:
        """Return what an arm varies: a key of ``FAMILIES``."""
        if arm.is_amd:
            return "AMD"
        if arm.distill.get("guidance_scale", 1.0) != 1.0:
            return "guidance"
        return "DMD, by weight" if self.own_keys[arm.name] <= {"weight_dmd"} else "DMD, varied"


@dataclass(frozen=True)
class Names:
    """Names of points, (text, x, y, colour), and the lines that they should not cover."""

    labels: list[tuple[str, float, float, str]] = field(default_factory=list)
    lines: list[list[tuple[float, float]]] = field(default_factory=list)


# ---- pictures -------------------------------------------------------------------------------------------------------


def plot_gain(ablation: Ablation, plt: Any) -> Any:
    """Draw the gain at the endpoint by the share of locations where the teacher is better.

    Raises:
        AMDRestoreError: no arm that is compared with the teacher has results and diagnostics.
    """
    points = {}
    for arm in (arm for arm in ablation.arms if arm.is_relative):
        share, gain = ablation.share(arm.name), ablation.gains(arm.name)
        seeds = [seed for seed in gain if seed in share]
        if seeds:
            points[arm.name] = [(100 * share[seed], gain[seed]) for seed in seeds]
    if not points:
        raise AMDRestoreError(
            f"{ablation.experiments}: no {FILE_NAME} of an arm of {ablation.name} with distill.advantage: teacher"
        )
    figure, axes = plt.subplots(figsize=(7.2, 4.8), layout="constrained")
    controls = {arm.name for arm in ablation.arms if arm.is_control}
    names = Names()
    for index, (name, pairs) in enumerate(points.items()):
        color, hollow = COLORS[index % len(COLORS)], name in controls
        xs, ys = zip(*pairs, strict=True)
        axes.plot(xs, ys, "o", color=color, markersize=4, alpha=0.7, markerfacecolor="none" if hollow else color)
        mean = float(np.mean(xs)), float(np.mean(ys))
        axes.plot(*mean, "D", color=color, markersize=8, markerfacecolor="none" if hollow else color)
        names.labels.append((name, *mean, color))
    for name in ablation.references:
        gain = ablation.gains(name)
        if gain:
            level = float(np.mean(list(gain.values())))
            axes.axhline(level, color=TEXT, linewidth=1, linestyle="--")
            axes.annotate(
                name, (1, level), xycoords=("axes fraction", "data"), color=TEXT, fontsize=8, ha="right", va="bottom"
            )
    unit = "" if ablation.metric != DISTORTION else ", dB"
    axes.set_xlabel("locations (or images) where the teacher is better, mean over the run, %")
    axes.set_ylabel(
        f"better {METRICS[ablation.metric].title} than {ablation.references[0]} on {ablation.dataset}{unit} →"
    )
    axes.margins(0.15)
    return finished(figure, {axes: names})


def plot_cosine(ablation: Ablation, plt: Any) -> Any:
    """Draw the cosine between H and ``gt - x`` inside and outside the zone, a panel for each arm with advantages.

    Raises:
        AMDRestoreError: no such run has diagnostics.
    """
    kinds = {"inside": COLORS[4], "outside": COLORS[0]}
    found = {
        arm.name: {kind: ablation.logged(arm.name, f"amd/cosine_gt_{kind}") for kind in kinds}
        for arm in ablation.arms
        if arm.is_amd
    }
    found = {name: of_kind for name, of_kind in found.items() if any(of_kind.values())}
    if not found:
        raise AMDRestoreError(f"{ablation.experiments}: no {FILE_NAME} of an AMD arm of {ablation.name}")
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    size = (0.8 + 2.8 * columns, 0.6 + 2.5 * rows)
    figure, grid = plt.subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, sharex=True, sharey=True
    )
    for axes, (name, of_kind) in zip(grid.flat, found.items(), strict=False):
        for kind, runs in of_kind.items():
            values = defaultdict(list)
            for one in runs.values():
                for iteration, value in one:
                    values[iteration].append(value)
            xs = sorted(values)
            means = [float(np.mean(values[x])) for x in xs]
            axes.plot(xs, means, color=kinds[kind], linewidth=1.6, marker="o", markersize=3, label=f"{kind} the zone")
            axes.fill_between(
                xs,
                [min(values[x]) for x in xs],
                [max(values[x]) for x in xs],
                color=kinds[kind],
                alpha=0.2,
                linewidth=0,
            )
        axes.axhline(0, color=TEXT, linewidth=0.8)
        axes.set_title(name, fontsize=9, loc="left", color=TEXT)
    for axes in grid.flat[len(found) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("cosine of H with gt - x")
    for column in range(columns):
        shown = [axes for axes in grid[:, column] if axes.get_visible()]
        shown[-1].set_xlabel("iteration")
        shown[-1].xaxis.set_tick_params(labelbottom=True)
    grid[0, 0].legend(fontsize=8, frameon=False, labelcolor="linecolor")
    return finished(figure)


def plot_tradeoff(ablation: Ablation, plt: Any) -> Any:
    """Draw differences of perceptual metrics from the first reference by those of PSNR-Y, a panel for each test set.

    Raises:
        AMDRestoreError: the ablation has not both kinds of metrics.
    """
    panels = [
        (dataset, metric)
        for metric in PERCEPTION
        for dataset in ablation.datasets
        if all(ablation.by_seed(ablation.references[0], dataset, one) for one in (metric, DISTORTION))
    ]
    if not panels:
        raise AMDRestoreError(f"{ablation.name}: no {DISTORTION} together with one of {', '.join(PERCEPTION)}")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(6.4 * columns, 5.0 * rows), layout="constrained", squeeze=False)
    names = {}
    for axes, (dataset, metric) in zip(grid.flat, panels, strict=False):
        names[axes] = draw_tradeoff(ablation, axes, dataset, metric)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    return finished(figure, names)


def draw_tradeoff(ablation: Ablation, axes: Any, dataset: str, metric: str) -> Names:
    """Draw one panel of :func:`plot_tradeoff`; returns the names to place."""
    names, weights = Names(), []
    for arm in ablation.arms:
        across, up = (list(ablation.differences(arm.name, dataset, one).values()) for one in (DISTORTION, metric))
        if not (across and up):
            continue
        family = ablation.family(arm)
        color, x, y = FAMILIES[family], float(np.mean(across)), float(np.mean(up))
        dx, dy = (float(np.std(one, ddof=1)) / len(one) ** 0.5 if len(one) > 1 else 0.0 for one in (across, up))
        face = "none" if arm.is_control else color
        axes.errorbar(x, y, dy, dx, "o", color=color, markersize=6, markerfacecolor=face, elinewidth=1)
        names.labels.append((arm.name, x, y, color))
        names.lines.extend(([(x - dx, y), (x + dx, y)], [(x, y - dy), (x, y + dy)]))
        if family == "DMD, by weight":
            weights.append((float(arm.distill.get("weight_dmd", 1.0)), x, y))
    line = [point[1:] for point in sorted(weights)]
    if len(line) > 1:
        axes.plot(*zip(*line, strict=True), color=FAMILIES["DMD, by weight"], linewidth=1.2)
        names.lines.append([(x, y) for x, y in line])
    reference = ablation.references[0]
    own = [np.mean(list(ablation.by_seed(reference, dataset, one).values())) for one in (DISTORTION, metric)]
    title, digits = METRICS[metric].title, METRICS[metric].digits
    axes.set_title(
        f"{dataset} ({reference}: {own[0]:.2f} dB, {title} {own[1]:.{digits}f})", fontsize=9, loc="left", color=TEXT
    )
    axes.set_xlabel(f"PSNR-Y above {reference}, dB →")
    axes.set_ylabel(f"{title} above {reference}, lower is better →")
    axes.invert_yaxis()  # better is further up
    axes.margins(0.18)
    return names


def finished(figure: Any, names: Mapping[Any, Names] | None = None) -> Any:
    """Return the figure with plain gray axes and the names of its points."""
    for axes in figure.axes:
        axes.tick_params(colors=TEXT, labelsize=8)
        axes.grid(True, linewidth=0.5, color=TEXT, alpha=0.25)
        for text in (axes.xaxis.label, axes.yaxis.label):
            text.set_color(TEXT)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(TEXT)
    figure.canvas.draw()  # Names need the final layout.
    figure.set_layout_engine("none")
    for axes, own in (names or {}).items():
        place_labels(axes, own.labels, own.lines)
    return figure


PICTURES = {"gain": plot_gain, "cosine": plot_cosine, "tradeoff": plot_tradeoff}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the three pictures.

    Raises:
        AMDRestoreError: no results, or no diagnostics of their runs.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="NAME.json of an ablation, and of more with other arms")
    parser.add_argument("--experiments", type=Path, default=Path("experiments"), help="folder of its runs")
    parser.add_argument("--out", type=Path, help="folder of the pictures; that of the results by default")
    args = parser.parse_args(arguments)
    ablation, *more = (Ablation(file, args.experiments) for file in args.results)
    for other in more:
        ablation.add(other)
    plt = pyplot()
    for kind, plot in PICTURES.items():
        figure = plot(ablation, plt)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, transparent=True, metadata={"Software": None})
        plt.close(figure)
        path = (args.out or args.results[0].parent) / f"{ablation.name}_{kind}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
        say(str(path))


if __name__ == "__main__":
    sys.exit(run_command(main))
