"""Weights and training states on disk, written atomically and read without unpickling code."""

from __future__ import annotations

import functools
import inspect
import io
import pickle
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amd_restore.archs.base import RestorationNetwork, checked_network
from amd_restore.atomic import option_path, write_atomically
from amd_restore.diffusion import Codec, Process
from amd_restore.errors import AMDRestoreError
from amd_restore.weights import check_network_base, load_checkpoint, read_header, split_encoder

BASE_KEY = "base"  # key of the base weights' fingerprint in a .pth file of an adapter


@dataclass(frozen=True)
class RunFolders:
    """Folders of a run.

    Attributes:
        models: networks.
        states: training states.
        log: log and diagnostics.
        visualization: images of validations.
    """

    models: Path
    states: Path
    log: Path
    visualization: Path

    @classmethod
    def of(cls, paths: Mapping[str, Any]) -> RunFolders:
        """Return the folders in the completed block ``path``; a test run has none for networks and states."""
        log = Path(paths["log"])
        models, states = Path(paths.get("models", log)), Path(paths.get("training_states", log))
        return cls(models, states, log, Path(paths["visualization"]))


def torch_save(state: Mapping[str, Any], path: str | Path) -> None:
    """``torch.save`` that leaves either the old file or the whole new one.

    Raises:
        AMDRestoreError: the file cannot be written (BasicSR would continue without it).
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def saved_iterations(states: Path) -> list[int]:
    """Return the iterations of the training states in a folder, in ascending order; other names do not count."""
    return sorted(int(path.stem) for path in states.glob("*.state") if path.stem.isdigit())


def remove_old(states: Path, models: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` training states and their networks; 0 keeps all."""
    for old in saved_iterations(states)[:-keep] if keep else ():
        (states / f"{old}.state").unlink()
        for file in models.glob(f"net_*_{old}.*"):
            file.unlink()


def load_weights(
    net: nn.Module, path: str | Path, param_key: str = "params", strict: bool = True, grow: bool = False
) -> Path:
    """Fill ``net`` from ``.safetensors`` or from BasicSR's ``.pth`` (``params_ema`` falls back to ``params``).

    With ``grow`` the file may have fewer input channels or blocks: weights of the additional last channels are 0 and
    new blocks initially leave the output unchanged, so that the network starts as the smaller one.

    Returns:
        The file, with variables and ``~`` expanded.

    Raises:
        AMDRestoreError: the file is missing or damaged, or has the weights of another network.
    """
    path = option_path(path)
    if not path.is_file():
        raise AMDRestoreError(f"{path}: no such weights file; check the path block of the option file")
    state: Mapping[str, Tensor]
    if path.suffix == ".safetensors":
        header, state = load_checkpoint(path)
        check_network_base(header, checked_network(net))
        _, state = split_encoder(state)
    else:
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            state, base = stored.get(param_key) or stored["params"], stored.get(BASE_KEY)
        except (RuntimeError, pickle.UnpicklingError, OSError, EOFError, KeyError, AttributeError) as error:
            raise AMDRestoreError(
                f"{path}: not a weights file of BasicSR ({type(error).__name__}), or damaged"
            ) from error
        found = net.base_fingerprint if isinstance(net, RestorationNetwork) else None
        if base and found and base != found:
            raise AMDRestoreError(
                f"{path}: an adapter of other weights than pretrained_model_name_or_path holds now "
                f"(fingerprint {found}, wanted {base}); put the original ones there"
            )
    if grow:
        state = net.grow(state) if isinstance(net, RestorationNetwork) else state
        state = {key: _grown(value, net.state_dict().get(key)) for key, value in state.items()}
    try:
        net.load_state_dict(state, strict=strict)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise AMDRestoreError(f"{path}: weights of another network than {type(net).__name__} ({detail})") from error
    return path


def check_latents(path: str | Path, codec: Codec, process: Process, prediction_type: str) -> None:
    """Check that a teacher with a header predicts in the latents of this run; one without a header is not checked.

    Args:
        path: weights of the teacher.
        codec, process, prediction_type: those of the run.

    Raises:
        AMDRestoreError: it was trained on others.
    """
    path = option_path(path)
    if path.suffix != ".safetensors":
        return
    header = read_header(path)
    theirs = {
        **_named("codec", header.codec),
        **_named("process", header.process),
        "prediction_type": header.prediction_type,
    }
    ours = {
        **_named("codec", codec.config()),
        **_named("process", process.config()),
        "prediction_type": prediction_type,
    }
    for name, value in ours.items():
        if theirs.get(name, value) != value:
            raise AMDRestoreError(f"{path}: a teacher with {name} {theirs[name]}, this run has {value}")


def _named(block: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{block}.{key}": value for key, value in options.items()}


def lost_options(path: str | Path, network: type, own: Mapping[str, Any]) -> list[str]:
    """Return a line for each option of a network without a tensor whose value in a header of weights is another.

    Args:
        path: weights that were loaded into the network.
        network: class of the network.
        own: its options.

    Raises:
        AMDRestoreError: the file has no header that can be read.
    """
    defaults = {name: one.default for name, one in inspect.signature(network).parameters.items()}
    theirs, ours = {**defaults, **read_header(path).network}, {**defaults, **own}
    return [
        f"network_g.{key}: the weights of {Path(path).name} have {theirs[key]}, this run {value}"
        for key, value in ours.items()
        if key != "type" and theirs.get(key, value) != value
    ]


def _grown(value: Tensor, wanted: Tensor | None) -> Tensor:
    """Pad ``value`` with zeros along its second dimension, if the network has more channels there."""
    if wanted is None or value.ndim < 2 or value.ndim != wanted.ndim or wanted.shape[1] <= value.shape[1]:
        return value
    missing = wanted.shape[1] - value.shape[1]
    return torch.cat([value, value.new_zeros(value.shape[0], missing, *value.shape[2:])], dim=1)


@functools.lru_cache
def revision() -> str:
    """Return the commit of this code's repository; empty outside a repository or without git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
