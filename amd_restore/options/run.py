"""A whole option file as one typed object."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from amd_restore.errors import AMDRestoreError
from amd_restore.options.basicsr import (
    DatasetOptions,
    DistOptions,
    LoggerOptions,
    PairedImageOptions,
    PathOptions,
    TrainOptions,
    ValOptions,
)
from amd_restore.options.blocks import (
    CodecOptions,
    DegradationOptions,
    DiffusionOptions,
    DistillOptions,
    LossOptions,
    RewardOptions,
)
from amd_restore.options.fields import OptionError, Plugin, build, check, defaults, option
from amd_restore.options.files import OptionFile
from amd_restore.options.plugins import import_named
from amd_restore.registry import (
    ARCH_REGISTRY,
    LOSS_REGISTRY,
    REWARD_REGISTRY,
    did_you_mean,
    import_basicsr,
    register_all,
)

# What BasicSR's pipelines and ours write into the options while running; no file may set it.
RUNTIME_KEYS = {
    "": {"is_train", "rank", "world_size", "dist", "auto_resume", "root_path", "opt_path", "resume_iter"},
    "path": {"experiments_root", "models", "training_states", "log", "visualization", "results_root"},
}
PHASES = ("train", "val", "test")
# What distillation cannot start without, by model.
_DISTILLATION = ("network_teacher", "network_fake", "train.optim_fake", "path.pretrain_network_teacher")
_NEEDED = {"SupervisedModel": ("losses",), "DMDModel": _DISTILLATION, "AMDModel": (*_DISTILLATION, "rewards")}
# A teacher that is a published checkpoint needs no weights of ours.
_SOURCE_KEY = "pretrained_model_name_or_path"


def _find_network(name: str) -> type:
    register_all()
    return ARCH_REGISTRY.get(name)


def dataset_arguments(name: str) -> Callable[..., Any]:
    """What takes the same arguments as the dataset class of that name.

    BasicSR's classes take one dictionary: those of ``PairedImageDataset`` are declared here, others are not checked.

    Raises:
        AMDRestoreError: no such class; names the nearest.
    """
    register_all(training=True)
    registry = import_basicsr().DATASET_REGISTRY
    if name not in registry:
        raise AMDRestoreError(f"unknown dataset {name!r}; {did_you_mean(name, registry.keys())}")
    if name == "PairedImageDataset":
        return PairedImageOptions
    found: Callable[..., Any] = registry.get(name)
    return _any_arguments if takes_dictionary(found) else found


def _any_arguments(**options: Any) -> None:
    """Take what nobody declares."""


def takes_dictionary(cls: Callable[..., Any]) -> bool:
    """Whether a dataset class is in BasicSR's manner: all its options in one dictionary, ``opt``."""
    return [*inspect.signature(cls).parameters] == ["opt"]


def _find_reward(name: str) -> type:
    register_all()
    return REWARD_REGISTRY.get(name)


def _find_loss(name: str) -> type:
    register_all()
    return LOSS_REGISTRY.get(name)


Network = Annotated[dict[str, Any], Plugin(_find_network)]
Reward = Annotated[RewardOptions, Plugin(_find_reward, given=("device",), common=RewardOptions)]
Loss = Annotated[LossOptions, Plugin(_find_loss, given=("device",), common=LossOptions)]
Dataset = Annotated[DatasetOptions, Plugin(dataset_arguments, given=("scale",), common=DatasetOptions)]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """An option file for ``train.py`` or ``test.py``.

    ``network_*`` stay plain mappings ``{type, ...}``: their keys are those of the network.

    Raises:
        ValueError: blocks that contradict each other, or one that the model needs is missing.
    """

    plugins: list[str] = option(
        [],
        "modules (package.module) and files (x.py, relative to this file) to import first: see CONTRIBUTING.md",
    )
    name: str = option(doc="name of the run, of its folder and of its weights")
    model_type: str = option(doc="registered model class")
    scale: int = option(doc="upscaling factor", low=1)
    num_gpu: int | Literal["auto"] = option(
        "auto", "GPUs to use; auto: one, with --launcher one for each process; 0: none", low=0
    )
    num_threads: int | None = option(None, "threads of a CPU run; null: torch decides, as on GPUs", low=1)
    manual_seed: int | None = option(None, "seed of the run", low=0)
    amp: Literal["none", "bf16"] = option("none", "autocast")
    licence: str = option("", "licence written into the header of exported weights")
    export: Literal["adapter", "merged"] = option(
        "adapter", "exported weights of a network with LoRA: the adapter, which needs its base, or one whole network"
    )
    datasets: dict[str, Dataset] = option({}, "by phase: train, val, val_2, test_set5, ...")
    codec: CodecOptions = option(CodecOptions(), "space in which diffusion runs")
    degradation: DegradationOptions = option(DegradationOptions(), "how low-quality images are made")
    diffusion: DiffusionOptions = option(DiffusionOptions(), "forward process and times")
    distill: DistillOptions = option(DistillOptions(), "distillation")
    losses: list[Loss] = option([], "losses of the student to the ground truth; DMD and AMD add the matching loss")
    rewards: list[Reward] = option([], "rewards of AMD")
    network_g: Network = option(doc="the network being trained")
    network_teacher: Network | None = option(None, "real score, frozen")
    network_fake: Network | None = option(None, "fake score, follows the student")
    network_d: Network | None = option(None, "discriminator of the student's images, for the loss Adversarial")
    path: PathOptions = option(PathOptions(), "weights to start from")
    train: TrainOptions | None = option(None, "training")
    val: ValOptions | None = option(None, "validation")
    logger: LoggerOptions = option(LoggerOptions(), "logs and saved states")
    dist_params: DistOptions | None = option(None, "distributed training")

    def __post_init__(self) -> None:
        for key, name in {
            "name": self.name,
            **{f"datasets.{p}.name": d.name for p, d in self.datasets.items()},
        }.items():
            if not name.strip() or name in (".", "..") or set(name) & set("/\\"):
                raise ValueError(f"{key}: {name!r} must be the name of a folder, no path")
        in_pixels = self.codec.type != "autoencoder"  # whose cells are known when it is loaded
        if in_pixels and self.codec.patch % self.scale:
            raise ValueError(f"codec.patch: must be a multiple of scale ({self.scale}), got {self.codec.patch}")
        for phase, dataset in self.datasets.items():
            if phase.split("_")[0] not in PHASES:
                raise ValueError(f"datasets.{phase}: unknown phase; {did_you_mean(phase, PHASES)}")
            size = dataset.arguments.get("gt_size")
            if in_pixels and isinstance(size, int) and size % self.codec.patch:
                raise ValueError(
                    f"datasets.{phase}.gt_size: must be a multiple of codec.patch ({self.codec.patch}), got {size}"
                )
            parts = self.train.accumulate if self.train else 1
            if phase == "train" and dataset.batch_size_per_gpu % parts:
                raise ValueError(
                    f"train.accumulate: must divide datasets.train.batch_size_per_gpu ({dataset.batch_size_per_gpu}), "
                    f"got {parts}"
                )
        if self.codec.train_encoder and self.model_type == "TeacherModel":
            raise ValueError("codec.train_encoder: the encoder learns with a student; a teacher does not have it")
        if self.train is not None:
            for key in ("train.total_iter", "train.scheduler") if self.train.time_limit is None else ():
                if operator.attrgetter(key)(self) is None:
                    raise ValueError(f"{key}: missing, and no train.time_limit instead of it")
            for key in _NEEDED.get(self.model_type, ()):
                if key == "path.pretrain_network_teacher" and (self.network_teacher or {}).get(_SOURCE_KEY):
                    continue
                if not operator.attrgetter(key)(self):
                    raise ValueError(f"{key}: missing; training a {self.model_type} needs it")
            self._check_losses(self.train)

    def _check_losses(self, train: TrainOptions) -> None:
        """Whether the losses are enough for this model, and have what they need."""
        types = [loss.type for loss in self.losses if loss.weight > 0]
        if self.model_type == "TeacherModel" and types:
            raise ValueError("losses: a TeacherModel learns to denoise; losses are for SupervisedModel and students")
        if self.model_type == "SupervisedModel" and not types:
            raise ValueError("losses: none has a weight; training a SupervisedModel needs one")
        if self.model_type in ("DMDModel", "AMDModel") and not types and self.distill.weight_dmd == 0:
            raise ValueError("losses: none has a weight, and distill.weight_dmd is 0; one must be greater")
        if (self.network_d is not None) != ("Adversarial" in types):
            raise ValueError("network_d: needs a loss of type Adversarial with a weight, and that loss needs network_d")
        if self.network_d is not None and train.optim_d is None:
            raise ValueError("train.optim_d: missing; network_d needs it")

    @classmethod
    def check(cls, opt: Mapping[str, Any], file: str | Path | OptionFile) -> dict[str, Any]:
        """The options as plain values, each of its declared type.

        Keys that were not given stay absent, except in ``logger``, ``val`` and what all datasets have: those are read
        without defaults.

        Args:
            opt: options as parsed from yml.
            file: where they came from, for messages; with bases, the one in which a wrong key stands is named.

        Raises:
            AMDRestoreError: one line with file, dotted key, problem and nearest known name.
        """
        try:
            import_named(check(opt.get("plugins", []), list[str], "plugins"))
            checked: dict[str, Any] = check(opt, cls, "")
            build(checked, cls)
            _check_model_type(checked["model_type"])
        except OptionError as error:
            place = file.place(str(error).partition(": ")[0]) if isinstance(file, OptionFile) else file
            raise AMDRestoreError(f"{place}: {error}") from error
        checked["logger"] = {**defaults(LoggerOptions), **checked.get("logger", {})}
        for phase, block in checked.get("datasets", {}).items():
            checked["datasets"][phase] = {**defaults(DatasetOptions), **block}
        if checked.get("val") is not None:
            checked["val"] = {**defaults(ValOptions), **checked["val"]}
        return checked

    @classmethod
    def from_dict(cls, opt: Mapping[str, Any], file: str | Path) -> RunOptions:
        """Typed options; what the program added to ``opt`` while running is left aside.

        Raises:
            AMDRestoreError: as :meth:`check`.
        """
        own = {key: value for key, value in opt.items() if key not in RUNTIME_KEYS[""]}
        if isinstance(own.get("path"), Mapping):
            own["path"] = {key: value for key, value in own["path"].items() if key not in RUNTIME_KEYS["path"]}
        try:
            run = build(check(own, cls, ""), cls)
        except OptionError as error:
            raise AMDRestoreError(f"{file}: {error}") from error
        assert isinstance(run, cls)
        return run


def _check_model_type(name: str) -> None:
    """``model_type`` against BasicSR's registry, whose own message is a traceback."""
    register_all(training=True)
    registry = import_basicsr().MODEL_REGISTRY
    if name not in registry:
        raise OptionError("model_type", f"unknown model {name!r}; {did_you_mean(name, registry.keys())}")
