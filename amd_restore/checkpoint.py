"""Weights as safetensors with a versioned JSON header that says how to build and run the network.

Nothing here unpickles: a weights file cannot run code.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from amd_restore.archs.base import RestorationNetwork, checked_network
from amd_restore.archs.latent.codecs import build_codec
from amd_restore.atomic import write_atomically
from amd_restore.diffusion import PREDICTION_TYPES, SAMPLERS, STARTS, Codec, Denoiser, Recipe, build_process
from amd_restore.errors import AMDRestoreError
from amd_restore.registry import ARCH_REGISTRY, import_plugins

# 2 added time_shift: a file of version 1 has evenly spaced times. 3 added start, start_noise and bases, and is written
# only where they say something, so that earlier programs go on reading the rest.
FORMAT_VERSION = 3
METADATA_KEY = "amd_restore"  # key of the header among the safetensors metadata
KINDS = ("student", "teacher")
ENCODER_PREFIX = "encoder."  # of the tensors of an encoder that was trained with the network
SOURCE_KEY = "pretrained_model_name_or_path"  # names a checkpoint of diffusers, in network and codec
DEFAULT_MODEL = "x4-real"
WEIGHTS_FOLDER = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Header:
    """What a weights file says about itself.

    Args:
        name: name of the model, as in ``x4-classical``.
        kind: ``student`` (few steps) or ``teacher`` (many).
        scale: upscaling factor.
        network: ``type`` in ``ARCH_REGISTRY`` and its arguments.
        codec: options of :func:`~amd_restore.diffusion.build_codec`.
        process: options of :func:`~amd_restore.diffusion.build_process`.
        prediction_type: what the network predicts, see :meth:`~amd_restore.diffusion.Process.to_x0`.
        steps: numbers of steps it was trained for, or tried with.
        default_steps: number of steps when the user names none.
        sampler, time_shift, start, start_noise: see :class:`~amd_restore.diffusion.Recipe`.
        mean: released name of weights whose one-step answer is the mean of what this network draws from; full fidelity
            is that. Empty: the network without noise.
        error_per_std: error to expect per deviation of samples, see
            :func:`~amd_restore.postprocess.uncertainty.expected_error`; 0: not fitted.
        bases: fingerprints of the weights that lie elsewhere, under ``network`` (of an adapter) and ``codec``.
        degradation: what was done to the training images, in words.
        training_data: what it was trained on, in words.
        licence: licence of the weights.
        rewards: metrics used as rewards or losses, hence no longer independent judges of this model.
        commit: revision of the code that trained it.
        numbers: measured results, ``{"Set14": {"psnr_y": ..}}``.

    Raises:
        AMDRestoreError: a value is out of range; the message names the key.
    """

    name: str
    kind: str
    scale: int
    network: Mapping[str, Any]
    codec: Mapping[str, Any]
    process: Mapping[str, Any]
    prediction_type: str
    steps: tuple[int, ...]
    default_steps: int
    sampler: str = "ode"
    time_shift: float = 1.0
    start: str = "noise"
    start_noise: float = 0.0
    mean: str = ""
    error_per_std: float = 0.0
    bases: Mapping[str, str] = field(default_factory=dict)
    degradation: str = ""
    training_data: str = ""
    licence: str = ""
    rewards: tuple[str, ...] = ()
    commit: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Lists come from JSON and from option files.
        object.__setattr__(self, "steps", _as_tuple("steps", self.steps))
        object.__setattr__(self, "rewards", _as_tuple("rewards", self.rewards))
        for key in ("network", "codec", "process", "numbers", "bases"):
            _require(isinstance(getattr(self, key), Mapping), key, "must be a table")
        _require(self.kind in KINDS, "kind", f"must be one of {', '.join(KINDS)}, not {self.kind!r}")
        _require(self.sampler in SAMPLERS, "sampler", f"must be one of {', '.join(SAMPLERS)}, not {self.sampler!r}")
        _require(self.start in STARTS, "start", f"must be one of {', '.join(STARTS)}, not {self.start!r}")
        for key in ("start_noise", "error_per_std"):
            value = getattr(self, key)
            _require(isinstance(value, (int, float)) and value >= 0, key, f"must be a number from 0 on, not {value!r}")
        _require(_positive(self.scale), "scale", f"must be a whole number of at least 1, not {self.scale!r}")
        shift = self.time_shift
        _require(
            isinstance(shift, (int, float)) and shift > 0, "time_shift", f"must be a number above 0, not {shift!r}"
        )
        _require(isinstance(self.network.get("type"), str), "network", "needs a 'type'")
        _require(self.codec.get("scale") == self.scale, "codec", f"has another scale than {self.scale}")
        _require(
            self.prediction_type in PREDICTION_TYPES,
            "prediction_type",
            f"must be one of {', '.join(PREDICTION_TYPES)}, not {self.prediction_type!r}",
        )
        _require(any(self.steps) and all(map(_positive, self.steps)), "steps", "must be whole numbers, at least 1")
        _require(_positive(self.default_steps), "default_steps", "must be a positive whole number")

    def recipe(self, num_steps: int | None = None) -> Recipe:
        """How latents are restored in ``num_steps`` steps; None takes the default."""
        steps = self.default_steps if num_steps is None else num_steps
        return Recipe(steps, self.sampler, self.time_shift, self.start, self.start_noise)

    def to_json(self) -> str:
        """One line of JSON, with the version of the format."""
        values = dataclasses.asdict(self)
        version = FORMAT_VERSION
        if self.start == "noise" and not self.bases:
            version = 2
            for key in ("start", "start_noise", "bases"):
                del values[key]
        for key in ("mean", "error_per_std"):
            if not values[key]:
                del values[key]
        return json.dumps({"format_version": version, **values}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Header:
        """Inverse of :meth:`to_json`. Unknown keys are left out: they may only ever add information.

        Raises:
            AMDRestoreError: no JSON, another format version, a missing key or a bad value.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise AMDRestoreError(f"header: no valid JSON ({error})") from error
        _require(isinstance(values, dict), "header", "must be a table")
        version = values.get("format_version")
        if version not in range(1, FORMAT_VERSION + 1):
            raise AMDRestoreError(
                f"header: format_version {version!r} is not one known here (1 to {FORMAT_VERSION}); "
                "update amd-restore, or export the weights again"
            )
        fields = dataclasses.fields(cls)
        required = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
        missing = [name for name in required if name not in values]
        if missing:
            raise AMDRestoreError(f"header: missing {', '.join(missing)}; export the weights again")
        return cls(**{f.name: values[f.name] for f in fields if f.name in values})


def save_checkpoint(
    path: str | Path, state_dict: Mapping[str, Tensor], header: Header, dtype: torch.dtype = torch.float16
) -> None:
    """Write weights and header to ``path``, whole or not at all.

    Args:
        path: ends in ``.safetensors``; folders on the way are made.
        state_dict: tensors on any device; floating ones are stored as ``dtype``, others as they are.
        header: what the file says about itself.
        dtype: storage type.

    Raises:
        AMDRestoreError: a tensor is not finite in ``dtype``, or the file cannot be written.
    """
    tensors = {}
    for key, value in state_dict.items():
        tensor = value.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.to(dtype)
            if not torch.isfinite(tensor).all():
                raise AMDRestoreError(f"{path}: '{key}' is not finite as {dtype}; nothing was written")
        # Clones, because safetensors refuses tensors that share memory.
        tensors[key] = tensor.contiguous().clone()
    write_atomically(path, to_bytes(tensors, metadata={METADATA_KEY: header.to_json()}))


def read_header(path: str | Path) -> Header:
    """Header of a weights file, without its tensors; errors as :func:`load_checkpoint`."""
    return _read(Path(path), with_tensors=False)[0]


def load_checkpoint(path: str | Path) -> tuple[Header, dict[str, Tensor]]:
    """Header and tensors of a weights file; floating tensors come as float32 on the CPU.

    Raises:
        AMDRestoreError: the file is missing, truncated, no safetensors file, or has no valid header.
    """
    return _read(Path(path), with_tensors=True)


def build_network(header: Header, state_dict: Mapping[str, Tensor] | None = None) -> RestorationNetwork:
    """The network a header describes, in evaluation mode.

    Args:
        header: of a weights file. Where it is an adapter, its base is loaded and the two are merged.
        state_dict: its tensors; None leaves the random initial weights.

    Raises:
        AMDRestoreError: unknown network, arguments or tensors that do not fit it, or another base.
    """
    # Cheap: the networks import their third parties only when they are built.
    import_plugins("archs", "*_arch.py")
    options = dict(header.network)
    kind = options.pop("type")
    try:
        net = checked_network(ARCH_REGISTRY.get(kind)(**options))
        check_network_base(header, net)
        if state_dict is not None:
            net.load_state_dict(split_encoder(state_dict)[1])
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise AMDRestoreError(f"weights of '{header.name}' do not fit {kind}: {reason[:300]}") from error
    return (net.merged() if net.base_fingerprint else net).eval()


def build_denoiser(header: Header, net: nn.Module, dtype: torch.dtype = torch.float32) -> Denoiser:
    """``net`` with the process and prediction type of ``header``: ``x0 = denoiser(x_t, t, cond)``."""
    return Denoiser(net, build_process(header.process), header.prediction_type, dtype)


def build_header_codec(header: Header, state_dict: Mapping[str, Tensor] | None = None) -> Codec:
    """The codec between images and the latents of ``header``'s network.

    Args:
        header: of a weights file.
        state_dict: its tensors, of which those of a trained encoder are taken.

    Raises:
        AMDRestoreError: the autoencoder cannot be loaded, or is another one than in training.
    """
    codec = build_codec(header.codec)
    _check_base(header, "codec", codec.fingerprint, header.codec)
    trained, _ = split_encoder(state_dict or {})
    if trained:
        codec.load_trained_state(trained)
    return codec


def split_encoder(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of a trained encoder, under the codec's own names, and those of the network."""
    encoder = {k.removeprefix(ENCODER_PREFIX): v for k, v in state_dict.items() if k.startswith(ENCODER_PREFIX)}
    return encoder, {k: v for k, v in state_dict.items() if not k.startswith(ENCODER_PREFIX)}


def check_network_base(header: Header, net: RestorationNetwork) -> None:
    """Compare the base that ``net`` found with the one that ``header``'s adapter was trained on.

    Raises:
        AMDRestoreError: it is another one.
    """
    _check_base(header, "network", net.base_fingerprint, header.network)


def _check_base(header: Header, what: str, found: str | None, options: Mapping[str, Any]) -> None:
    wanted = header.bases.get(what)
    if wanted is not None and found is not None and wanted != found:
        raise AMDRestoreError(
            f"weights of '{header.name}' were trained with another {what} than {options.get(SOURCE_KEY)} holds now "
            f"(fingerprint {found}, wanted {wanted}); put the original one there"
        )


def released_models() -> dict[str, Path]:
    """Names of the models in the package, with their files."""
    return {path.stem: path for path in sorted(WEIGHTS_FOLDER.glob("*.safetensors"))}


def resolve_weights(name_or_path: str | Path = DEFAULT_MODEL) -> Path:
    """Weights file for a released name, a file, or a folder that holds exactly one ``.safetensors``.

    Raises:
        AMDRestoreError: nothing of that name; lists the released ones.
    """
    released = released_models()
    if str(name_or_path) in released:
        return released[str(name_or_path)]
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise AMDRestoreError(
                f"{path}: holds {len(found)} .safetensors files where one is expected; name the file itself"
            )
        return found[0]
    names = ", ".join(released) or "none"
    raise AMDRestoreError(f"{name_or_path}: neither a released model nor a weights file; released models: {names}")


def _read(path: Path, with_tensors: bool) -> tuple[Header, dict[str, Tensor]]:
    if not path.is_file():
        released = ", ".join(released_models()) or "none"
        raise AMDRestoreError(f"{path}: no such weights file; released models: {released}")
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if with_tensors:
                tensors = {key: _to_float32(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AMDRestoreError(
            f"{path}: not a complete safetensors file ({error}); download or copy it again "
            "(.pth and .ckpt files are not read: they could run code)"
        ) from error
    if METADATA_KEY not in metadata:
        raise AMDRestoreError(
            f"{path}: has no '{METADATA_KEY}' header; use weights exported by amd_restore's save_checkpoint"
        )
    try:
        return Header.from_json(metadata[METADATA_KEY]), tensors
    except AMDRestoreError as error:
        raise AMDRestoreError(f"{path}: {error}") from error


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _as_tuple(key: str, value: Any) -> tuple[Any, ...]:
    _require(isinstance(value, list | tuple), key, "must be a list")
    return tuple(value)


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require(condition: bool, key: str, problem: str) -> None:
    if not condition:
        raise AMDRestoreError(f"header: '{key}' {problem}")
