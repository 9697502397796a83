"""Options of an ablation file as checked dataclasses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from amd_restore.benchmark.metrics import DEFAULT_METRICS, METRICS
from amd_restore.benchmark.options import BenchmarkOptions, DatasetOptions, MethodOptions
from amd_restore.errors import AMDRestoreError
from amd_restore.options import read_yaml
from amd_restore.options.fields import OptionError, PathText, build, check, option
from amd_restore.registry import did_you_mean


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """``evaluation``: measurement of finished runs, with keys of a benchmark file.

    Raises:
        ValueError: an unknown metric, or an empty list.
    """

    datasets: dict[str, DatasetOptions] = option(doc="test sets by name")
    metrics: list[str] = option(DEFAULT_METRICS, "columns")
    steps: list[int] = option([1], "numbers of steps, with a table for each", low=1, high=1000)
    noise_seeds: list[int] = option([0], "noise seeds of the restoration, averaged first", low=0)
    crop_border: int = option(4, "pixels excluded at each side for PSNR, SSIM and NIQE", low=0)
    dtype: Literal["float32", "bfloat16"] = option("float32", "dtype of the networks")
    device: str = option("cpu", "device of the networks")

    def __post_init__(self) -> None:
        for metric in self.metrics:
            if metric not in METRICS:
                raise ValueError(f"unknown metric '{metric}'; {did_you_mean(metric, METRICS)}")
        if not (self.datasets and self.metrics and self.steps and self.noise_seeds):
            raise ValueError("datasets, metrics, steps and noise_seeds need at least one entry each")


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """``endpoint``: the number that decides the question of the ablation, chosen before its runs."""

    dataset: str = option(doc="test set")
    steps: int = option(1, "number of steps", low=1, high=1000)
    metric: str = option(doc="held-out metric")


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """Ablation file; ``overrides`` and ``arms`` are merged into the base file key by key, lists replaced.

    Raises:
        ValueError: names collide or do not exist.
    """

    name: str = option(doc="name of the runs and the output files")
    base: PathText = option(doc="option file of the training, relative to this file")
    overrides: dict[str, Any] = option({}, "changes of the base file for all arms")
    arms: dict[str, dict[str, Any]] = option(doc="name -> changes of the base file")
    seeds: list[int] = option([0, 1, 2], "training seeds of each arm", low=0)
    total_iter: int = option(doc="iterations of each run and of its schedule", low=1)
    processes: int = option(1, "trainings (or evaluations) at the same time", low=1)
    num_threads: int = option(1, "threads of each training", low=1)
    compare_to: list[str] = option([], "arms that all others are compared with; empty: the first")
    evaluation: EvaluationOptions = option(doc="how finished runs are measured")
    endpoint: EndpointOptions | None = option(None, "number that decides; null: all results are exploratory")

    def __post_init__(self) -> None:
        if not (self.arms and self.seeds):
            raise ValueError("arms and seeds need at least one entry each")
        if self.endpoint is not None:
            block, chosen = self.evaluation, self.endpoint
            for key, value, known in (
                ("dataset", chosen.dataset, list(block.datasets)),
                ("metric", chosen.metric, block.metrics),
                ("steps", chosen.steps, block.steps),
            ):
                if value not in known:
                    raise ValueError(f"endpoint.{key}: {value} is not evaluated; evaluation has {known}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"a seed is given twice: {self.seeds}")
        slugs: dict[str, str] = {}
        for arm in self.arms:
            other = slugs.setdefault(slug(arm), arm)
            if other != arm:
                raise ValueError(f"arms '{other}' and '{arm}' would have the same folder; rename one")
        for arm in self.compare_to:
            if arm not in self.arms:
                raise ValueError(f"compare_to: no arm '{arm}'; {did_you_mean(arm, self.arms)}")

    @property
    def references(self) -> list[str]:
        """Return the arms with which the others are compared."""
        return self.compare_to or [next(iter(self.arms))]


def slug(arm: str) -> str:
    """Convert an arm's name to a part of a folder's: ``+ score adaptation`` -> ``score_adaptation``."""
    return re.sub(r"[^a-z0-9.]+", "_", arm.lower()).strip("_") or "arm"


def load_ablation_options(file: str | Path) -> AblationOptions:
    """Read and check an ablation file.

    Raises:
        AMDRestoreError: one line with file, key, problem and nearest known name.
    """
    try:
        options: AblationOptions = build(check(read_yaml(file), AblationOptions, ""), AblationOptions)
    except OptionError as error:
        raise AMDRestoreError(f"{file}: {error}") from error
    return options


def as_benchmark(options: AblationOptions, scale: int, weights: dict[str, list[str]]) -> BenchmarkOptions:
    """Return the evaluation as a benchmark.

    Args:
        options: ablation.
        scale: upscaling factor of the trainings.
        weights: arm -> weights files, one per training seed.

    Raises:
        AMDRestoreError: there is nothing to evaluate.
    """
    block = options.evaluation
    try:
        return BenchmarkOptions(
            name=options.name,
            scale=scale,
            crop_border=block.crop_border,
            seeds=block.noise_seeds,
            metrics=block.metrics,
            dtype=block.dtype,
            device=block.device,
            threads=options.num_threads,
            datasets=block.datasets,
            methods=[MethodOptions(name=arm, weights=files, steps=block.steps) for arm, files in weights.items()],
        )
    except ValueError as error:
        raise AMDRestoreError(f"evaluation: {error}") from error
