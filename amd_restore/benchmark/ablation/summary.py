"""Measurements of arms -> means, intervals and differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amd_restore.benchmark.ablation.evaluation import ArmResult
from amd_restore.benchmark.metrics import METRICS, USED, marks
from amd_restore.benchmark.statistics import (
    Difference,
    Interval,
    interval,
    paired_difference,
    summarise,
    within_images,
)


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        spread: deviation between training seeds of the mean over images; None for one seed.
        own: interval over images and seeds.
        within: the same after taking out what all arms share on an image: these can be compared between arms.
        mark: whether the arm was trained on the metric, see :func:`~amd_restore.benchmark.metrics.marks`.
    """

    arm: str
    dataset: str
    steps: int
    metric: str
    mean: float
    spread: float | None
    own: Interval
    within: Interval
    seeds: int
    images: int
    mark: str


@dataclass(frozen=True)
class ArmDifference:
    """Arm minus reference.

    Attributes:
        difference: paired by image and training seed.
        apart: whether the two arms' intervals within images have nothing in common.
        verdict: "better", "worse", or "undecided" where the interval of the difference has zero in it.
    """

    arm: str
    reference: str
    dataset: str
    steps: int
    metric: str
    difference: Difference
    apart: bool
    verdict: str


def split_metrics(metrics: Sequence[str], results: Sequence[ArmResult]) -> tuple[list[str], list[str]]:
    """Metrics that no arm was trained on, and the others."""
    used = {metric for one in results for metric, mark in marks(one.rewards).items() if mark == USED}
    return [name for name in metrics if name not in used], [name for name in metrics if name in used]


def summarise_arms(results: Sequence[ArmResult]) -> list[Cell]:
    """Means and intervals of every arm, number of steps, test set and metric."""
    cells = []
    for dataset, steps in dict.fromkeys((one.dataset, one.steps) for one in results):
        arms = [one for one in results if (one.dataset, one.steps) == (dataset, steps)]
        for metric in arms[0].values:
            within = within_images([arm.values[metric] for arm in arms])
            for arm, comparable in zip(arms, within, strict=True):
                values = arm.values[metric]
                summary = summarise(values)
                cells.append(
                    Cell(
                        arm=arm.arm,
                        dataset=dataset,
                        steps=steps,
                        metric=metric,
                        mean=summary.mean,
                        spread=summary.spread,
                        own=interval(values),
                        within=interval(comparable),
                        seeds=len(arm.seeds),
                        images=int((~np.isnan(values).any(axis=0)).sum()),
                        mark=marks(arm.rewards).get(metric, ""),
                    )
                )
    return cells


def compare_arms(results: Sequence[ArmResult], cells: Sequence[Cell], references: Sequence[str]) -> list[ArmDifference]:
    """Every arm minus each reference, on the training seeds that both have.

    Args:
        results: measurements.
        cells: their summary, for the intervals within images.
        references: names of arms.
    """
    within = {(cell.arm, cell.dataset, cell.steps, cell.metric): cell.within for cell in cells}
    found = []
    for name in references:
        for reference in [one for one in results if one.arm == name]:
            for arm in results:
                if arm.arm == name or (arm.dataset, arm.steps) != (reference.dataset, reference.steps):
                    continue
                common = [seed for seed in arm.seeds if seed in reference.seeds]
                for metric in arm.values if common else ():
                    a, b = (within[one.arm, one.dataset, one.steps, metric] for one in (arm, reference))
                    found.append(_compare(arm, reference, metric, common, not a.overlaps(b)))
    return found


def _compare(arm: ArmResult, reference: ArmResult, metric: str, seeds: Sequence[int], apart: bool) -> ArmDifference:
    a, b = (one.values[metric][[one.seeds.index(seed) for seed in seeds]] for one in (arm, reference))
    difference = paired_difference(a, b)
    better = (difference.mean > 0) == METRICS[metric].higher_is_better
    return ArmDifference(
        arm=arm.arm,
        reference=reference.arm,
        dataset=arm.dataset,
        steps=arm.steps,
        metric=metric,
        difference=difference,
        apart=apart and not np.isnan(difference.mean),
        verdict=("better" if better else "worse") if difference.decided else "undecided",
    )
