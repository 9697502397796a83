"""diffusers' checkpoints: a hub id, a folder, or one file; what goes wrong is said in one line."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amd_restore import compat
from amd_restore.atomic import expanded
from amd_restore.errors import AMDRestoreError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PREDICTION_NAMES = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}  # diffusers' -> ours
_BETAS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)


def diffusers_class(name: str) -> Any:
    """A class of diffusers by name; imported here and only here, for that takes seconds.

    Raises:
        AMDRestoreError: this diffusers has no such class.
    """
    compat.patch()  # diffusers imports torchvision where it is installed
    import diffusers

    try:
        return getattr(diffusers, name)
    except (AttributeError, RuntimeError) as error:
        raise AMDRestoreError(f"diffusers {diffusers.__version__} cannot give {name}; update diffusers") from error


def resolve(name_or_path: str | Path) -> str:
    """``name_or_path`` with ``~`` expanded where that exists on disk, else as it is: a hub id."""
    path = expanded(name_or_path)
    return str(path) if path.exists() else str(name_or_path)


def load_model(
    class_name: str,
    name_or_path: str | Path,
    subfolder: str | None = None,
    revision: str | None = None,
    dtype: str = "fp32",
    single_file_config: str | None = None,
) -> Any:
    """Model of diffusers with its weights, in evaluation mode, on the CPU.

    Args:
        class_name: as ``UNet2DConditionModel``.
        name_or_path: hub id (``stabilityai/stable-diffusion-2-1-base``), folder made by ``save_pretrained``, or one
            ``.safetensors`` file of the original release.
        subfolder: folder of this model inside; not used for a single file.
        revision: branch, tag or commit of the hub.
        dtype: ``fp32`` or ``bf16``.
        single_file_config: folder or hub id with the ``config.json`` (inside ``subfolder``) of a single file; without
            it diffusers guesses the model from the tensors and fetches its configuration from the hub.

    Raises:
        AMDRestoreError: nothing there, not that kind of model, or no way to reach the hub.
    """
    cls, source = diffusers_class(class_name), resolve(name_or_path)
    precision = _dtype(dtype)
    options: dict[str, Any] = {"revision": revision} if revision else {}
    with one_line(class_name, source, subfolder):
        if Path(source).is_file():
            if not hasattr(cls, "from_single_file"):
                raise AMDRestoreError(f"{source}: {class_name} cannot be read from a single file; give a folder")
            if single_file_config:
                options |= {"config": resolve(single_file_config), "subfolder": subfolder}
            model = cls.from_single_file(source, **options)
        else:
            model = cls.from_pretrained(source, subfolder=subfolder, **options)
    return _cast(model, precision).eval()


def load_config(name_or_path: str | Path, subfolder: str | None, revision: str | None = None) -> dict[str, Any]:
    """The ``config.json`` of a model in a folder or on the hub; errors as :func:`load_model`."""
    # Any model class reads any model's file; nothing of this one is used.
    return _read_config("AutoencoderKL", name_or_path, subfolder, revision)


def build_from_config(class_name: str, config: Mapping[str, Any], dtype: str = "fp32") -> Any:
    """Model of diffusers with random weights.

    Raises:
        AMDRestoreError: a configuration that the class does not accept.
    """
    try:
        model = diffusers_class(class_name).from_config(dict(config))
    except (TypeError, ValueError) as error:
        raise AMDRestoreError(f"{class_name}: config is not one of it ({' '.join(str(error).split())})") from error
    return _cast(model, _dtype(dtype)).eval()


def plain_config(model: Any) -> dict[str, Any]:
    """Configuration of a model that JSON can hold, for :func:`build_from_config`."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dict(model.config).items()
        if not key.startswith("_")
    }


def scheduler_process(
    name_or_path: str | Path, subfolder: str | None = "scheduler", revision: str | None = None
) -> tuple[dict[str, Any], str]:
    """The process that a checkpoint was trained on, from its scheduler's own configuration.

    Returns:
        Options of :func:`~amd_restore.diffusion.build_process`, and the prediction type.

    Raises:
        AMDRestoreError: no configuration there, or of a process that is not known here.
    """
    source = resolve(name_or_path)
    if Path(source).is_file():
        raise AMDRestoreError(
            f"{source}: a single file has no scheduler; set diffusion.process to variance_preserving or flow_matching"
        )
    config = _read_config("DDPMScheduler", source, subfolder, revision)
    return process_of_scheduler(config, f"{source}/{subfolder or ''}")


def process_of_scheduler(config: Mapping[str, Any], where: str) -> tuple[dict[str, Any], str]:
    """:func:`scheduler_process` of a configuration already read; ``where`` it came from is for messages."""
    kind = str(config.get("_class_name", ""))
    if kind.startswith("FlowMatch"):
        if config.get("use_dynamic_shifting"):
            raise AMDRestoreError(
                f"{where}: its times shift with the resolution; set diffusion.process: flow_matching and a fixed shift"
            )
        return {"type": "flow_matching", "shift": float(config.get("shift", 1.0))}, "flow"
    prediction = config.get("prediction_type", "epsilon")
    if "beta_schedule" not in config or prediction not in PREDICTION_NAMES:
        raise AMDRestoreError(
            f"{where}: scheduler {kind or 'without a name'} with prediction '{prediction}' is not known here; "
            "set diffusion.process and diffusion.prediction_type yourself"
        )
    process = {key: config[key] for key in _BETAS if config.get(key) is not None}
    return {"type": "variance_preserving", **process}, PREDICTION_NAMES[prediction]


@torch.no_grad()
def fingerprint(module: nn.Module) -> str:
    """Short name for the weights of ``module``: the same on every device and in fp32 as in bf16.

    Names, shapes and at most 4096 evenly spread values of each tensor go in, so that it takes a second, not a minute,
    for a billion parameters. It tells models apart; it does not guard against forgery.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        values = tensor.detach().flatten()
        values = values[:: max(1, values.numel() // 4096)]
        digest.update(values.cpu().float().bfloat16().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def one_line(what: str, source: str, subfolder: str | None = None) -> Iterator[None]:
    """Turn what diffusers, transformers and the hub raise for bad input into one line.

    Raises:
        AMDRestoreError: in place of theirs.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        place = f"{source}/{subfolder}" if subfolder else source
        reason = " ".join(str(error).split())[:200]
        if Path(source).exists():
            advice = "give a folder made by save_pretrained, or the right subfolder"
        else:
            advice = "no such folder or file here, and the hub gave nothing: check the name, or download it first"
        raise AMDRestoreError(f"{place}: cannot load {what}; {advice} ({type(error).__name__}: {reason})") from error


def _read_config(class_name: str, name_or_path: str | Path, subfolder: str | None, revision: str | None) -> Any:
    cls, source = diffusers_class(class_name), resolve(name_or_path)
    with one_line(f"the configuration of a {'scheduler' if 'Scheduler' in class_name else 'model'}", source, subfolder):
        return dict(cls.load_config(source, subfolder=subfolder, **({"revision": revision} if revision else {})))


def _cast(model: Any, dtype: torch.dtype) -> Any:
    # Not the model's own method, which warns that nothing at all should have been kept in float32.
    return nn.Module.to(model, dtype)


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise AMDRestoreError(f"dtype '{name}' is not known; use {' or '.join(DTYPES)}")
    return DTYPES[name]
