"""Restoring and measuring, with a cache of finished runs so that a benchmark can be interrupted and resumed."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from amd_restore.atomic import write_atomically
from amd_restore.benchmark.images import TestSet
from amd_restore.benchmark.methods import Method, Run
from amd_restore.benchmark.metrics import Measure
from amd_restore.benchmark.options import BenchmarkOptions
from amd_restore.benchmark.provenance import MEASURING, backbone_hashes, code_fingerprint, file_hash, package_versions
from amd_restore.image_io import Picture, write_image
from amd_restore.rewards import dists_net


@dataclass(frozen=True)
class Result:
    """Measurements of one method on one dataset.

    Attributes:
        method: row.
        dataset: name of the test set.
        images: names of the images.
        values: metric -> (runs, images).
        seconds: (runs, images), time of one restoration.
    """

    method: Method
    dataset: str
    images: tuple[str, ...]
    values: dict[str, NDArray[np.float64]]
    seconds: NDArray[np.float64]


class Evaluator:
    """Measurement of methods on test sets.

    Args:
        options: benchmark.
        folder: folder of cached results (``cache/``) and images (``images/``).
        fresh: ignore cached results.
        save_images: write every restored image.
    """

    def __init__(self, options: BenchmarkOptions, folder: Path, fresh: bool = False, save_images: bool = False) -> None:
        self.options, self.folder, self.fresh, self.save_images = options, folder, fresh, save_images
        self._measure: Measure | None = None

    def __call__(
        self, methods: Sequence[Method], test_sets: Sequence[TestSet], progress: Callable[[str], None]
    ) -> list[Result]:
        """Yield results by method; calls ``progress`` with the name of each finished image."""
        results = []
        for method in methods:
            for test_set in test_sets:
                kept = [self._run(run, test_set, progress) for run in method.runs(self.options)]
                names = tuple(kept[0]["images"])
                values = {
                    metric: np.array([one["values"][metric] for one in kept], dtype=np.float64)
                    for metric in self.options.metrics
                }
                seconds = np.array([one["seconds"] for one in kept], dtype=np.float64)
                results.append(Result(method, test_set.name, names, values, seconds))
            method.release()
        return results

    def is_kept(self, run: Run, test_set: TestSet) -> bool:
        """Return whether this run is cached."""
        return self._kept_file(self._identity(run, test_set)).is_file() and not self.fresh and not self.save_images

    def _identity(self, run: Run, test_set: TestSet) -> dict[str, object]:
        """Return everything that determines a measurement."""
        return {
            **run.identity,
            "test_set": test_set.fingerprint(),
            "metrics": self.options.metrics,
            "crop_border": self.options.crop_border,
            "threads": torch.get_num_threads(),
            **self._environment,
        }

    def _kept_file(self, identity: dict[str, object]) -> Path:
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
        return self.folder / "cache" / f"{key}.json"

    def _run(self, run: Run, test_set: TestSet, progress: Callable[[str], None]) -> dict[str, Any]:
        identity = self._identity(run, test_set)
        file = self._kept_file(identity)
        if file.is_file() and not self.fresh and not self.save_images:
            kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            for name in kept["images"]:
                progress(name)
            return kept
        measured: dict[str, Any] = {"identity": identity, "images": [], "values": {}, "seconds": []}
        measure = self.measure  # Import and load before the first timed restoration.
        for pair in test_set:
            sr = run.restore(pair, test_set.name)
            measured["seconds"].append(run.seconds[-1])
            measured["images"].append(pair.name)
            for metric, value in measure(sr, pair).items():
                measured["values"].setdefault(metric, []).append(value)
            if self.save_images:
                row = run.method.name.replace("/", "_")
                place = f"images/{test_set.name}/{row}/{run.weights}_{run.seed}/{pair.name}.png"
                write_image(self.folder / place, Picture(sr))
            progress(pair.name)
        write_atomically(file, json.dumps(measured).encode())
        return measured

    @functools.cached_property
    def _environment(self) -> dict[str, object]:
        """Return what determines a measurement besides the options: code, packages, weights of metrics."""
        nets = [name.removeprefix("lpips_") for name in self.options.metrics if name.startswith("lpips_")]
        environment: dict[str, object] = {"code": code_fingerprint(), "versions": package_versions(MEASURING)}
        if "dists" in self.options.metrics:
            nets.append("vgg")
            environment["dists"] = file_hash(dists_net.weights_file())
        return {**environment, "lpips_backbones": backbone_hashes(nets)}

    @property
    def measure(self) -> Measure:
        """Build the metrics on first use: if all results are cached, no network is loaded."""
        if self._measure is None:
            self._measure = Measure(self.options.metrics, self.options.crop_border, self.options.device)
        return self._measure
