"""Blocks of an option file that BasicSR reads, with the few keys that our code adds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from amd_restore.errors import AMDRestoreError
from amd_restore.options.fields import Duration, Limits, PathText, Plugin, option
from amd_restore.registry import did_you_mean


@dataclass(frozen=True, kw_only=True)
class IoBackendOptions:
    """``datasets.X.io_backend``."""

    type: Literal["disk", "lmdb"] = option("disk", "files, or LMDB databases made by the preparation scripts")


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """``datasets.X``; the other keys are arguments of its class."""

    name: str = option(doc="name in logs, folders and weight headers")
    type: str = option(doc="registered dataset class")
    num_worker_per_gpu: int = option(
        0, "processes that load data, and degrade it if degradation.type is second_order", low=0
    )
    batch_size_per_gpu: int = option(1, "images per step", low=1)
    on_device: Literal["auto", "always", "never"] = option(
        "auto",
        "keep the crops of CropsDataset in device memory; auto: on a GPU with room for them, unless workers degrade "
        "them",
    )
    pin_memory: bool = option(False, "load into page-locked memory, for GPUs")
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PairedImageOptions:
    """Further keys of ``datasets.X`` of type ``PairedImageDataset``: BasicSR's pairs from two folders.

    Raises:
        ValueError: a folder or file is missing, or its kind does not fit ``io_backend``.
    """

    dataroot_gt: PathText = option(doc="folder (or .lmdb) of clean images")
    dataroot_lq: PathText = option(doc="folder (or .lmdb) of low-quality images")
    io_backend: IoBackendOptions = option(IoBackendOptions(), "how images are read")
    meta_info_file: PathText | None = option(None, "list of image names")
    filename_tmpl: str = option("{}", "name of the low-quality file; {} is the name of the clean file without suffix")
    gt_size: Annotated[int, Limits(low=1)] | None = option(None, "side of a training crop in output pixels")
    use_hflip: bool = option(True, "flip training crops")
    use_rot: bool = option(True, "rotate training crops by multiples of 90 degrees")

    def __post_init__(self) -> None:
        is_lmdb = self.io_backend.type == "lmdb"
        for key in ("dataroot_gt", "dataroot_lq"):
            folder = Path(getattr(self, key))
            if not folder.is_dir():
                raise ValueError(f"{key}: {folder}: no such folder")
            if (folder.suffix == ".lmdb") != is_lmdb:
                raise ValueError(f"{key}: {folder}: io_backend lmdb takes folders named *.lmdb, disk any others")
            if is_lmdb and not (folder / "meta_info.txt").is_file():
                raise ValueError(f"{key}: {folder}: no meta_info.txt in it; make it with datasets/prepare_folder.py")
        if self.meta_info_file and not Path(self.meta_info_file).is_file():
            raise ValueError(f"meta_info_file: {self.meta_info_file}: no such file")


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """``train.optim_X``: an optimizer of ``torch.optim``; the other keys are its arguments.

    Raises:
        ValueError: the optimizer refuses its arguments, or cannot update convolutions and biases.
    """

    type: str = option(doc="Adam, AdamW, SGD ...")
    lr: float = option(doc="learning rate", above=0)
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import torch

        # All our networks have convolutions and biases; some optimizers take matrices or sparse gradients only.
        weights = [torch.ones(shape, requires_grad=True) for shape in ((1, 1, 1, 1), (1,))]
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        try:
            find_optimizer(self.type)(weights, lr=self.lr, **self.arguments).step()
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(f"{self.type} cannot be used so: {str(error).splitlines()[0]}") from error


def find_optimizer(name: str) -> type:
    """Return the optimizer of ``torch.optim`` by name.

    Raises:
        AMDRestoreError: unknown name; the message suggests the nearest.
    """
    from torch import optim

    known = {n: c for n, c in vars(optim).items() if isinstance(c, type) and issubclass(c, optim.Optimizer)}
    del known["Optimizer"]
    if name not in known:
        raise AMDRestoreError(f"unknown optimizer {name!r}; {did_you_mean(name, known)}")
    return known[name]


Optimizer = Annotated[OptimizerOptions, Plugin(find_optimizer, given=("params",), common=OptimizerOptions)]
_SCHEDULER_KEYS = {
    "MultiStepLR": ("milestones", "gamma"),
    "CosineAnnealingRestartLR": ("periods", "restart_weights", "eta_min"),
}


@dataclass(frozen=True, kw_only=True)
class SchedulerOptions:
    """``train.scheduler``, one for all optimizers. Counts are iterations."""

    type: Literal["MultiStepLR", "CosineAnnealingRestartLR"] = option(doc="schedule")
    milestones: list[int] | None = option(None, "iterations at which the rate is multiplied by gamma", low=0)
    gamma: float | None = option(None, "factor at milestones", above=0)
    restart_weights: list[float] | None = option(None, "factor on the rate in each cosine cycle; null: [1]", low=0)
    periods: list[int] | None = option(None, "lengths of the cosine cycles", low=1)
    eta_min: float | None = option(None, "final learning rate of a cosine cycle", low=0)

    def __post_init__(self) -> None:
        allowed = _SCHEDULER_KEYS[self.type]
        for key in {key for keys in _SCHEDULER_KEYS.values() for key in keys}:
            if getattr(self, key) is not None and key not in allowed:
                raise ValueError(f"{self.type} has no {key}; it takes {', '.join(allowed)}")
        if getattr(self, allowed[0]) is None:
            raise ValueError(f"{self.type} needs {allowed[0]}")
        # BasicSR defaults to one weight.
        count, weights = len(self.periods or [1]), len(self.restart_weights or [1])
        if count != weights:
            raise ValueError(f"restart_weights has {weights} entries, periods {count}; give one for each")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """``train``."""

    total_iter: int | None = option(None, "iterations of the whole run; needed without time_limit", low=1)
    time_limit: Duration | None = option(
        None, "time of the whole run over all its sessions: seconds, or 540s, 30m, 8h; see docs/training.md", above=0
    )
    optim_g: Optimizer = option(doc="optimizer of network_g")
    optim_fake: Optimizer | None = option(None, "optimizer of network_fake")
    optim_d: Optimizer | None = option(None, "optimizer of network_d")
    scheduler: SchedulerOptions | None = option(
        None, "learning rate over iterations; needed without time_limit, not used with it"
    )
    warmup_iter: int = option(-1, "iterations of linear warm-up; -1: none", low=-1)
    ema_decay: float = option(0.0, "decay of the averaged weights; 0: no averaging", low=0, below=1)
    grow_networks: bool = option(
        False,
        "allow more blocks or channels than the weight files have, which initially leave the output unchanged, and "
        "files of a larger factor of enlargement",
    )
    grad_clip: float | None = option(None, "maximum gradient norm; null or 0: no clipping", low=0)
    accumulate: int = option(
        1, "parts into which each process splits its batch to save memory; must divide batch_size_per_gpu", low=1
    )

    def __post_init__(self) -> None:
        periods = self.scheduler.periods if self.scheduler else None
        if self.time_limit is None and periods is not None and sum(periods) < (self.total_iter or 0):
            raise ValueError(
                f"scheduler.periods: their sum ({sum(periods)}) must be at least total_iter ({self.total_iter})"
            )


@dataclass(frozen=True, kw_only=True)
class MetricOptions:
    """``val.metrics.X``: a BasicSR metric, or ``lpips``."""

    type: str = option(doc="calculate_psnr, calculate_ssim, calculate_niqe or lpips")
    crop_border: int = option(0, "pixels excluded at each side", low=0)
    test_y_channel: bool = option(False, "measure on the Y channel of YCbCr")
    net: Literal["alex", "squeeze", "vgg"] = option("alex", "backbone of LPIPS")


@dataclass(frozen=True, kw_only=True)
class ValOptions:
    """``val``."""

    val_freq: int = option(1000, "iterations between validations", low=1)
    save_img: bool = option(False, "save every restored image")
    metrics: dict[str, MetricOptions] | None = option(None, "metrics by name")
    num_steps: list[int] = option([1], "numbers of steps to validate", low=1, high=1000)
    guidance_scale: float = option(1.0, "guidance while sampling; 1: no guidance", low=0)
    panels: int = option(0, "images in the sample panel; 0: no panel", low=0)


@dataclass(frozen=True, kw_only=True)
class WandbOptions:
    """``logger.wandb``."""

    project: str | None = option(None, "project; null: off")
    resume_id: str | None = option(None, "run to resume")


@dataclass(frozen=True, kw_only=True)
class LoggerOptions:
    """``logger``."""

    print_freq: int = option(100, "iterations between log lines", low=1)
    save_checkpoint_freq: int = option(1000, "iterations between saved states", low=1)
    keep_checkpoints: int | None = option(None, "number of saved states to keep; null or 0: all", low=0)
    use_tb_logger: bool = option(False, "write TensorBoard files")
    wandb: WandbOptions | None = option(None, "Weights & Biases; needs use_tb_logger")

    def __post_init__(self) -> None:
        if self.wandb and self.wandb.project and not self.use_tb_logger:
            raise ValueError("wandb.project needs use_tb_logger: true")


@dataclass(frozen=True, kw_only=True)
class PathOptions:
    """``path``: weights to start from; BasicSR adds its folders while running."""

    pretrain_network_g: PathText | None = option(None, "weights of network_g")
    pretrain_network_teacher: PathText | None = option(None, "weights of network_teacher")
    pretrain_network_d: PathText | None = option(None, "weights of network_d; null: it starts untrained")
    pretrain_network_fake: PathText | None = option(None, "weights of network_fake; null: the teacher's")
    param_key_g: Literal["params", "params_ema"] = option("params", "key of the weights in a .pth file")
    resume_state: PathText | None = option(None, "training state to resume from")
    ignore_resume_networks: list[str] | None = option(None, "networks to leave out when resuming")


@dataclass(frozen=True, kw_only=True)
class DistOptions:
    """``dist_params``: distributed training."""

    backend: Literal["nccl", "gloo"] | None = option(None, "communication library; null: nccl on GPUs, else gloo")
    port: int = option(29500, "port of the first process, for --launcher slurm", low=1, high=65535)
    timeout: int = option(1800, "seconds that processes wait for each other, also during validation", low=1)
