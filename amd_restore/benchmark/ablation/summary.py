"""Means, intervals and differences of arms."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amd_restore.benchmark.ablation.evaluation import ArmResult
from amd_restore.benchmark.ablation.options import EndpointOptions
from amd_restore.benchmark.metrics import METRICS, USED, marks
from amd_restore.benchmark.statistics import CONFIDENCE, Interval, holm, interval, paired_difference, summarise


@dataclass(frozen=True)
class Cell:
    """Number in a table.

    Attributes:
        spread: standard deviation between training seeds of the mean over images; None for one seed.
        own: interval over training seeds.
        mark: whether the arm was trained on the metric, see :func:`~amd_restore.benchmark.metrics.marks`.
    """

    arm: str
    dataset: str
    steps: int
    metric: str
    mean: float
    spread: float | None
    own: Interval
    seeds: int
    images: int
    mark: str


@dataclass(frozen=True)
class ArmDifference:
    """Arm minus reference.

    Attributes:
        difference: paired by image and training seed, with its interval over training seeds.
        p: p of the difference, adjusted (Holm) for all arms at the endpoint, else for all other held-out numbers of the
            ablation; NaN for metrics that an arm was trained on.
        is_endpoint: whether this is the endpoint chosen before the runs.
        verdict: "better" or "worse" if the adjusted p is below 5%, else "undecided".
    """

    arm: str
    reference: str
    dataset: str
    steps: int
    metric: str
    difference: Interval
    p: float
    is_endpoint: bool
    verdict: str


def split_metrics(metrics: Sequence[str], results: Sequence[ArmResult]) -> tuple[list[str], list[str]]:
    """Return the metrics that no arm was trained on, and the others."""
    used = {metric for one in results for metric, mark in marks(one.rewards).items() if mark == USED}
    return [name for name in metrics if name not in used], [name for name in metrics if name in used]


def summarise_arms(results: Sequence[ArmResult]) -> list[Cell]:
    """Return means and intervals of every arm, number of steps, test set and metric."""
    cells = []
    for dataset, steps in dict.fromkeys((one.dataset, one.steps) for one in results):
        arms = [one for one in results if (one.dataset, one.steps) == (dataset, steps)]
        for metric in arms[0].values:
            for arm in arms:
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
                        own=interval(values, over="runs"),
                        seeds=len(arm.seeds),
                        images=int((~np.isnan(values).any(axis=0)).sum()),
                        mark=marks(arm.rewards).get(metric, ""),
                    )
                )
    return cells


def compare_arms(
    results: Sequence[ArmResult], references: Sequence[str], endpoint: EndpointOptions | None = None
) -> list[ArmDifference]:
    """Return every arm minus each reference, on common training seeds.

    Args:
        results: measurements.
        references: names of arms.
        endpoint: endpoint chosen before the runs.
    """
    held_out, _ = split_metrics(list(results[0].values) if results else [], results)
    found = []
    for name in references:
        for reference in [one for one in results if one.arm == name]:
            for arm in results:
                if arm.arm == name or (arm.dataset, arm.steps) != (reference.dataset, reference.steps):
                    continue
                common = [seed for seed in arm.seeds if seed in reference.seeds]
                found += [_compare(arm, reference, metric, common, endpoint) for metric in arm.values if common]
    for is_endpoint in (True, False):
        family = [index for index, one in enumerate(found) if one.is_endpoint == is_endpoint and one.metric in held_out]
        for index, p in zip(family, holm([found[index].difference.p for index in family]), strict=True):
            found[index] = _judged(found[index], p)
    return found


def _compare(
    arm: ArmResult, reference: ArmResult, metric: str, seeds: Sequence[int], endpoint: EndpointOptions | None
) -> ArmDifference:
    a, b = (one.values[metric][[one.seeds.index(seed) for seed in seeds]] for one in (arm, reference))
    chosen = None if endpoint is None else (endpoint.dataset, endpoint.steps, endpoint.metric)
    return ArmDifference(
        arm=arm.arm,
        reference=reference.arm,
        dataset=arm.dataset,
        steps=arm.steps,
        metric=metric,
        difference=paired_difference(a, b, over="runs"),
        p=float("nan"),
        is_endpoint=(arm.dataset, arm.steps, metric) == chosen,
        verdict="undecided",
    )


def _judged(one: ArmDifference, p: float) -> ArmDifference:
    better = (one.difference.mean > 0) == METRICS[one.metric].higher_is_better
    decided = p < 1 - CONFIDENCE  # False for NaN.
    return dataclasses.replace(one, p=p, verdict=("better" if better else "worse") if decided else "undecided")
