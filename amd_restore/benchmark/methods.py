"""Methods of the rows: bicubic, weights at a number of steps, or a folder of results."""

from __future__ import annotations

import glob
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from amd_restore.atomic import expanded
from amd_restore.benchmark.images import Image, Pair, read_rgb, resize_to_height, to_uint8
from amd_restore.benchmark.options import BenchmarkOptions, MethodOptions
from amd_restore.benchmark.provenance import file_hash
from amd_restore.diffusion import GuidedDenoiser
from amd_restore.errors import AMDRestoreError
from amd_restore.inference.damage import ESTIMATOR
from amd_restore.pipeline import AUTO, AutomaticPipeline, RestorationPipeline, files_of, load_pipeline
from amd_restore.weights import read_header, released_models, resolve_weights


class Method:
    """Row of the tables; without noise and weights it has one run."""

    def __init__(self, name: str, rewards: Sequence[str] = ()) -> None:
        self.name, self.rewards = name, tuple(rewards)

    def runs(self, options: BenchmarkOptions) -> list[Run]:
        """Return the runs over which this row is averaged."""
        return [Run(self, {"method": type(self).__name__})]

    def restore(self, pair: Pair, dataset: str, run: Run) -> Image:
        """Return the image (sH, sW, 3) as bytes."""
        raise NotImplementedError

    def prepare(self, run: Run) -> None:
        """Load what a run needs, which is not part of its seconds."""

    def describe(self) -> dict[str, str]:
        """Return the description for the protocol."""
        return {}

    @property
    def family(self) -> str:
        """Return the common name of rows that differ only in their number of steps."""
        return self.name

    def timed_call(self, lq: Tensor) -> Callable[[], object] | None:
        """Return a function to time on (1, 3, H, W); None if users would not run this code."""
        return None

    def release(self) -> None:
        """Free memory."""


@dataclass(frozen=True)
class Run:
    """Repetition of a method.

    Attributes:
        method: the method.
        identity: everything that determines the result except the dataset, for the cache.
        weights: index of the weights file.
        seed: seed of the noise.
    """

    method: Method
    identity: dict[str, object]
    weights: int = 0
    seed: int | None = None
    seconds: list[float] = field(default_factory=list, compare=False)

    def restore(self, pair: Pair, dataset: str) -> Image:
        """Restore one image and measure the time.

        Raises:
            AMDRestoreError: the result has another size than the ground truth.
        """
        self.method.prepare(self)
        start = time.perf_counter()
        sr = self.method.restore(pair, dataset, self)
        self.seconds.append(time.perf_counter() - start)
        height, width = pair.output_size
        if sr.shape != (height, width, 3):
            raise AMDRestoreError(
                f"{self.method.name}: {dataset}/{pair.name} is {sr.shape[1]}x{sr.shape[0]}, expected {width}x{height}"
            )
        return sr


class Bicubic(Method):
    """BasicSR's MATLAB-like enlargement."""

    def restore(self, pair: Pair, dataset: str, run: Run) -> Image:
        return to_uint8(resize_to_height(pair.lq, pair.output_size[0]))


class Missing(Method):
    """Row without results.

    Args:
        name: name of the row.
        reason: reason, for the table.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name)
        self.reason = reason


class Folder(Method):
    """Result images of another program, ``path/DATASET/NAME*.png``, or ``path/NAME*.png`` without such a folder.

    File names may have a suffix after the image's name, as added by restoration programs.
    """

    def __init__(self, name: str, path: str, rewards: Sequence[str]) -> None:
        super().__init__(name, rewards)
        self.path = Path(path)

    def runs(self, options: BenchmarkOptions) -> list[Run]:
        if not self.path.is_dir():
            raise AMDRestoreError(f"{self.name}: no such folder of results: {self.path}")
        digest = hashlib.sha256()
        for file in sorted(path for path in self.path.rglob("*") if path.is_file()):
            digest.update(str(file.relative_to(self.path)).encode() + file.read_bytes())
        return [Run(self, {"folder": digest.hexdigest()})]

    def restore(self, pair: Pair, dataset: str, run: Run) -> Image:
        folder = self.path / dataset if (self.path / dataset).is_dir() else self.path
        names = (pair.name, *pair.aliases)
        found = [path for name in names for path in folder.glob(f"{glob.escape(name)}*") if path.stem == name]
        found = found or sorted(path for name in names for path in folder.glob(f"{glob.escape(name)}[_-]*"))
        if len(found) != 1:
            raise AMDRestoreError(f"{self.name}: {len(found)} files for {pair.name} in {folder}, expected one")
        return read_rgb(found[0])


class Weights(Method):
    """Weights file, ``auto``, or several training seeds of one method, at one number of steps."""

    def __init__(self, options: MethodOptions, steps: int | None, run_options: BenchmarkOptions) -> None:
        self.names = [name if name == AUTO else resolve_weights(name) for name in options.weights]
        files = [files_of(name) for name in self.names]
        headers = {file: read_header(file) for file in chain(*files) if file != ESTIMATOR}
        self.steps = headers[files[0][0]].default_steps if steps is None else steps
        self.label = options.name
        self.guidance_scale, self.options = options.guidance_scale, run_options
        self.dtype = options.dtype or run_options.dtype
        rewards = sorted({name for header in headers.values() for name in header.rewards})
        super().__init__(_row_name(options.name, self.steps), rewards)
        if AUTO in self.names and self.guidance_scale != 1.0:
            raise AMDRestoreError(f"{options.name}: guidance_scale is for one model, not for '{AUTO}'; leave it out")
        for file, header in headers.items():
            if header.scale != run_options.scale:
                raise AMDRestoreError(f"{file}: enlarges by {header.scale}, the benchmark by {run_options.scale}")
        self.hashes = [" ".join(map(file_hash, parts)) for parts in files]
        self._loaded: tuple[int, RestorationPipeline] | None = None

    @property
    def family(self) -> str:
        return self.label

    def timed_call(self, lq: Tensor) -> Callable[[], object]:
        pipeline = self._pipeline(0)
        return lambda: pipeline(lq, num_steps=self.steps, seed=0)

    def runs(self, options: BenchmarkOptions) -> list[Run]:
        return [
            Run(
                self,
                {
                    "weights": digest,
                    "steps": self.steps,
                    "guidance_scale": self.guidance_scale,
                    "dtype": self.dtype,
                    "device": options.device,
                    "seed": seed,
                },
                index,
                seed,
            )
            for index, digest in enumerate(self.hashes)
            for seed in options.seeds
        ]

    def prepare(self, run: Run) -> None:
        self._pipeline(run.weights)

    def restore(self, pair: Pair, dataset: str, run: Run) -> Image:
        pipeline = self._pipeline(run.weights)
        lq = torch.from_numpy(pair.lq.transpose(2, 0, 1).copy())[None].float() / 255.0
        assert run.seed is not None
        sr = pipeline(lq, num_steps=self.steps, seed=run.seed)
        return to_uint8(sr[0].permute(1, 2, 0).numpy())

    def describe(self) -> dict[str, str]:
        # Many files have the same name (net_g_latest).
        names = [f"{self.label}/{Path(name).name}" for name in self.names]
        if len(set(names)) < len(names):
            names = [f"{self.label}/{index}/{Path(name).name}" for index, name in enumerate(self.names)]
        return dict(zip(names, self.hashes, strict=True))

    def release(self) -> None:
        self._loaded = None

    def _pipeline(self, index: int) -> RestorationPipeline:
        if self._loaded is None or self._loaded[0] != index:
            dtype = getattr(torch, self.dtype)
            pipeline = load_pipeline(self.names[index], self.options.device, dtype)
            if self.guidance_scale != 1.0:
                pipeline.denoiser = GuidedDenoiser(pipeline.denoiser, self.guidance_scale)
            # The first call also allocates memory and chooses kernels, so it is not timed.
            for one in pipeline.models.values() if isinstance(pipeline, AutomaticPipeline) else (pipeline,):
                one(torch.zeros(1, 3, 32, 32, dtype=torch.float32), num_steps=1)
            self._loaded = (index, pipeline)
        return self._loaded[1]


def build_methods(options: BenchmarkOptions) -> Iterator[Method]:
    """Build rows in the order of the option file; weights give one per number of steps.

    Raises:
        AMDRestoreError: missing or unfit weights.
    """
    for method in options.methods:
        if method.type == "bicubic":
            yield Bicubic(method.name)
        elif method.type == "folder":
            assert method.path is not None
            yield Folder(method.name, method.path, method.rewards)
        else:
            choices: list[int | None] = [*method.steps] or [None]
            for steps in choices:
                try:
                    yield Weights(method, steps, options)
                except AMDRestoreError:
                    if not method.optional or _exist(method):
                        raise
                    yield Missing(_row_name(method.name, steps), "not released; no such weights")


def _exist(method: MethodOptions) -> bool:
    """Return whether all weights files exist, valid or not."""
    released = released_models()
    return all(name in released or expanded(name).exists() for name in method.weights)


def _row_name(name: str, steps: int | None) -> str:
    return name if steps is None else f"{name}, {steps} step{'s' if steps > 1 else ''}"
