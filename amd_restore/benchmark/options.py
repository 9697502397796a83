"""Options of a benchmark file as checked dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from amd_restore.benchmark.metrics import DEFAULT_METRICS, METRICS
from amd_restore.errors import AMDRestoreError
from amd_restore.options import OptionFile
from amd_restore.options.fields import OptionError, PathText, build, check, option


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """One entry of ``datasets``: ground truth and inputs, or inputs alone.

    Raises:
        ValueError: neither is given.
    """

    gt: PathText | None = option(None, "folder of ground-truth images; null: inputs alone, for no-reference metrics")
    lq: PathText | None = option(None, "folder of inputs of the same names; null: MATLAB-like bicubic from gt")
    gt_suffix: str = option("", "suffix of ground-truth names after the image's name, such as _HR")
    lq_suffix: str = option("", "suffix of input names, such as x4")
    optional: bool = option(False, "skip it with a message if its folders are missing")
    limit: int | None = option(None, "use the first images only", low=1)
    crop: int | None = option(None, "use the central square of this many ground-truth pixels", low=32)

    def __post_init__(self) -> None:
        if self.gt is None and self.lq is None:
            raise ValueError("needs a folder 'gt', or 'lq' alone where there is no ground truth")


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """One entry of ``methods``.

    Raises:
        ValueError: keys contradict each other.
    """

    name: str = option(doc="name in the tables")
    type: Literal["bicubic", "weights", "folder"] = option("weights", "source of the images")
    weights: list[PathText] = option([], "weights files or released names; several are training seeds of one method")
    steps: list[int] = option([], "numbers of steps, each a row; empty: the weights' default", low=1, high=1000)
    guidance_scale: float = option(1.0, "guidance at inference; 1: no guidance", low=0)
    dtype: Literal["float32", "bfloat16"] | None = option(None, "dtype of the network; null: the benchmark's")
    optional: bool = option(False, "missing weights give a row without results instead of an error")
    path: PathText | None = option(None, "folder of result images, one sub-folder per dataset")
    rewards: list[str] = option([], "metrics that a folder's method was trained on")

    def __post_init__(self) -> None:
        if (self.type == "weights") != bool(self.weights):
            raise ValueError("'weights' goes with type weights, and only with it")
        if (self.type == "folder") != (self.path is not None):
            raise ValueError("'path' goes with type folder, and only with it")


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """One entry of ``compare``: the difference a - b with a confidence interval."""

    a: str = option(doc="name of a row")
    b: str = option(doc="name of another row")


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """``speed``: all methods on one input in turn, so that disturbances affect all of them."""

    side: int = option(128, "side of the square input, pixels", low=8)
    warm_up: int = option(1, "untimed calls before", low=0)
    repeats: int = option(5, "timed calls, of which the median is reported", low=1)
    baselines: list[str] = option([], "rows with which the others' speed is compared")


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Benchmark file.

    Raises:
        ValueError: an unknown metric, or duplicate names.
    """

    name: str = option(doc="name of the output files")
    scale: int = option(4, "upscaling factor", low=1)
    crop_border: int = option(4, "pixels excluded at each side for PSNR, SSIM and NIQE", low=0)
    seeds: list[int] = option([0, 1, 2], "noise seeds; the spread between them is reported", low=0)
    metrics: list[str] = option(DEFAULT_METRICS, "columns")
    dtype: Literal["float32", "bfloat16"] = option("float32", "dtype of the networks")
    device: str = option("cpu", "device of the networks")
    threads: int | None = option(None, "CPU threads; null: torch's default", low=1)
    datasets: dict[str, DatasetOptions] = option(doc="test sets by name")
    methods: list[MethodOptions] = option(doc="methods to compare")
    compare: list[CompareOptions] = option([], "pairs of rows whose difference is tested")
    speed: SpeedOptions | None = option(None, "speed on one input size; null: no table of speed")
    plots: bool = option(True, "draw diagrams of perception against distortion, and of quality against seconds")

    def __post_init__(self) -> None:
        unknown = [metric for metric in self.metrics if metric not in METRICS]
        if unknown:
            raise ValueError(f"unknown metric '{unknown[0]}'; known: {', '.join(METRICS)}")
        if not (self.seeds and self.metrics and self.datasets and self.methods):
            raise ValueError("seeds, metrics, datasets and methods need at least one entry each")
        names = [method.name for method in self.methods]
        if len(set(names)) < len(names):
            raise ValueError(f"methods of one name: {', '.join(names)}")


def load_benchmark_options(file: str | Path) -> BenchmarkOptions:
    """Read and check a benchmark file, which may build on others (``base``).

    Raises:
        AMDRestoreError: one line with file, key, problem and nearest known name.
    """
    source = OptionFile.read(file)
    try:
        options: BenchmarkOptions = build(check(source.content, BenchmarkOptions, ""), BenchmarkOptions)
    except OptionError as error:
        raise AMDRestoreError(f"{source.place(error.where)}: {error}") from error
    return options
