"""Measurements of finished runs per arm, number of steps and training seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from amd_restore.benchmark.ablation.options import AblationOptions, as_benchmark
from amd_restore.benchmark.ablation.runs import TrainingRun
from amd_restore.benchmark.evaluate import Evaluator
from amd_restore.benchmark.images import TestSet
from amd_restore.benchmark.methods import Method, Weights, build_methods


@dataclass(frozen=True)
class ArmResult:
    """Measurements of an arm at one number of steps on one test set.

    Attributes:
        arm: name.
        steps: number of steps.
        dataset: name of the test set.
        seeds: training seeds.
        rewards: metrics it was trained on, from the headers of its weights.
        values: metric -> (seeds, images), means over noises.
        seconds: time of one restoration, mean.
    """

    arm: str
    steps: int
    dataset: str
    seeds: tuple[int, ...]
    images: tuple[str, ...]
    rewards: tuple[str, ...]
    values: dict[str, NDArray[np.float64]]
    seconds: float


class Evaluation:
    """Measurement of runs with the benchmark's evaluator, cached by the weights' hashes.

    Args:
        options: ablation.
        folder: folder of cached measurements.

    Raises:
        AMDRestoreError: a test set is missing.
    """

    def __init__(self, options: AblationOptions, folder: Path, scale: int) -> None:
        self.options, self.folder, self.scale = options, folder, scale
        self.test_sets = [TestSet(name, block, scale) for name, block in options.evaluation.datasets.items()]

    def is_kept(self, run: TrainingRun) -> bool:
        """Return whether this run is measured."""
        evaluator, methods = self._prepare([run])
        return all(
            evaluator.is_kept(one, test_set)
            for method in methods
            for one in method.runs(evaluator.options)
            for test_set in self.test_sets
        )

    def measure(self, runs: Sequence[TrainingRun], progress: Callable[[str], None]) -> list[ArmResult]:
        """Measure finished runs; calls ``progress`` with the name of each finished image."""
        torch.set_num_threads(self.options.num_threads)
        evaluator, methods = self._prepare(runs)
        seeds: dict[str, tuple[int, ...]] = {}
        for run in runs:
            seeds[run.arm] = (*seeds.get(run.arm, ()), run.seed)
        results = []
        for method in methods:
            assert isinstance(method, Weights)
            for one in evaluator([method], self.test_sets, progress):
                # The evaluator's runs are seeds of training times seeds of noise, in this order.
                shape = (len(seeds[method.label]), len(self.options.evaluation.noise_seeds), -1)
                values = {metric: array.reshape(shape).mean(axis=1) for metric, array in one.values.items()}
                results.append(
                    ArmResult(
                        arm=method.label,
                        steps=method.steps,
                        dataset=one.dataset,
                        seeds=seeds[method.label],
                        images=one.images,
                        rewards=method.rewards,
                        values=values,
                        seconds=float(one.seconds.mean()),
                    )
                )
        return results

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprints of the test sets."""
        return {test_set.name: test_set.fingerprint() for test_set in self.test_sets}

    def _prepare(self, runs: Sequence[TrainingRun]) -> tuple[Evaluator, list[Method]]:
        weights: dict[str, list[str]] = {}
        for run in runs:
            weights.setdefault(run.arm, []).append(str(run.weights))
        benchmark = as_benchmark(self.options, self.scale, weights)
        return Evaluator(benchmark, self.folder), list(build_methods(benchmark))
