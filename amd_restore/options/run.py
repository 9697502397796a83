"""Typed options of a whole option file."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from amd_restore.atomic import is_plain_name
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

# BasicSR's pipelines and ours write these keys into the options while running, so no file may set them.
RUNTIME_KEYS = {
    "": {"is_train", "rank", "world_size", "dist", "auto_resume", "root_path", "opt_path", "resume_iter"},
    "path": {"experiments_root", "models", "training_states", "log", "visualization", "results_root"},
}
PHASES = ("train", "val", "test")
# Keys that training needs, by model.
_DISTILLATION = ("network_teacher", "network_fake", "train.optim_fake", "path.pretrain_network_teacher")
_NEEDED = {"SupervisedModel": ("losses",), "DMDModel": _DISTILLATION, "AMDModel": (*_DISTILLATION, "rewards")}
# A teacher with this key loads a published checkpoint, so it needs no pretrained weights of ours.
_SOURCE_KEY = "pretrained_model_name_or_path"


def _find_network(name: str) -> type:
    register_all()
    return ARCH_REGISTRY.get(name)


def dataset_arguments(name: str) -> Callable[..., Any]:
    """Return a callable with the arguments of the dataset class of that name.

    BasicSR's classes take one dictionary: only that of ``PairedImageDataset`` is declared and checked.

    Raises:
        AMDRestoreError: no such class; the message suggests the nearest.
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
    """Accept any options."""


def takes_dictionary(cls: Callable[..., Any]) -> bool:
    """Return whether a dataset class takes all its options in one dictionary ``opt``, as BasicSR's do."""
    return [*inspect.signature(cls).parameters] == ["opt"]


def _find_reward(name: str) -> type:
    register_all()
    return REWARD_REGISTRY.get(name)


def _find_loss(name: str) -> type:
    register_all()
    return LOSS_REGISTRY.get(name)


Network = Annotated[dict[str, Any], Plugin(_find_network, lowest=1)]
Reward = Annotated[RewardOptions, Plugin(_find_reward, given=("device",), common=RewardOptions)]
Loss = Annotated[LossOptions, Plugin(_find_loss, given=("device",), common=LossOptions)]
Dataset = Annotated[DatasetOptions, Plugin(dataset_arguments, given=("scale",), common=DatasetOptions)]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options for ``train.py`` or ``test.py``.

    ``network_*`` stay plain mappings ``{type, ...}`` with the constructor arguments of the network.

    Raises:
        ValueError: blocks contradict each other, or a block that the model needs is missing.
    """

    plugins: list[str] = option(
        [],
        "modules (package.module) and files (x.py, relative to this file) to import first; see CONTRIBUTING.md",
    )
    name: str = option(doc="name of the run, its folder and its weights")
    model_type: str = option(doc="registered model class")
    scale: int = option(doc="upscaling factor", low=1)
    num_gpu: int | Literal["auto"] = option(
        "auto", "number of GPUs; auto: one, or one per process with --launcher; 0: CPU", low=0
    )
    num_threads: int | None = option(None, "number of threads of a CPU run; null: torch's default", low=1)
    manual_seed: int | None = option(None, "random seed", low=0)
    amp: Literal["none", "bf16"] = option("none", "dtype of autocast")
    licence: str = option("", "licence written into the header of exported weights")
    export: Literal["adapter", "merged"] = option(
        "adapter", "exported weights of a network with LoRA: the adapter only, or the network with the adapter merged"
    )
    datasets: dict[str, Dataset] = option({}, "datasets by phase: train, val, val_2, test_set5, ...")
    codec: CodecOptions = option(CodecOptions(), "space in which diffusion runs")
    degradation: DegradationOptions = option(DegradationOptions(), "how low-quality images are made from clean ones")
    diffusion: DiffusionOptions = option(DiffusionOptions(), "forward process and times")
    distill: DistillOptions = option(DistillOptions(), "distillation")
    losses: list[Loss] = option(
        [],
        "losses between the model's images and the ground truth; beside matching (DMD, AMD) or denoising (teacher)",
    )
    fake_losses: list[Loss] = option(
        [], "losses of the fake score on its late estimates of the student's images, if the teacher had such losses"
    )
    rewards: list[Reward] = option([], "rewards of AMD")
    network_g: Network = option(doc="network to train")
    network_teacher: Network | None = option(None, "teacher: the real score, frozen")
    network_fake: Network | None = option(None, "fake score, trained on the student's samples")
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
            if not is_plain_name(name):
                raise ValueError(f"{key}: {name!r} must be the name of a folder, no path")
        in_pixels = self.codec.type != "autoencoder"  # The cell size of an autoencoder is known only after loading it.
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
            alone = phase == "train" and dataset.batch_size_per_gpu == 1 and self.distill.group_size == 1
            if alone and self.distill.permute_advantage:
                raise ValueError("distill.permute_advantage: with one sample in a batch there is no other one")
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
        """Check that the model has the losses it needs, and that the losses have what they need."""
        if any(loss.type == "Adversarial" for loss in self.fake_losses):
            raise ValueError("fake_losses: a fake score has no discriminator; Adversarial is for students")
        types = [loss.type for loss in self.losses if loss.weight > 0]
        if self.model_type == "TeacherModel" and "Adversarial" in types:
            raise ValueError("losses: a TeacherModel has no discriminator; Adversarial is for students")
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
        """Return the options as plain values of their declared types.

        Keys that were not given stay absent, except in ``logger``, ``val`` and the common keys of datasets, which
        BasicSR reads without defaults.

        Args:
            opt: options as parsed from yml.
            file: source, for messages; an :class:`OptionFile` names the base that sets a wrong key.

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
        """Return typed options; ignores keys that the program added to ``opt`` while running.

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
    """Check ``model_type`` against BasicSR's registry, which itself fails with a traceback."""
    register_all(training=True)
    registry = import_basicsr().MODEL_REGISTRY
    if name not in registry:
        raise OptionError("model_type", f"unknown model {name!r}; {did_you_mean(name, registry.keys())}")
