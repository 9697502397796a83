"""Turn weights exported by training into released ones, with name, licence and origin in the header.

    amd-restore release --weights experiments/RUN/models/net_g_latest.safetensors --name x4-classical

``--mix OTHER --share 0.5`` averages the tensors with those of another file, which must have the same network and be
trained from the same initial weights ("model soup", 2203.05482); otherwise the average is useless.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amd_restore.atomic import is_plain_name, path_option
from amd_restore.errors import AMDRestoreError, Parser, run_command, say
from amd_restore.weights import WEIGHTS_FOLDER, Header, load_checkpoint, save_checkpoint


def release(
    weights: Path,
    name: str,
    out: Path,
    first_gain: float | None = None,
    rewards: Sequence[str] = (),
    mix: Path | None = None,
    share: float = 0.5,
    **changes: str | float | None,
) -> Path:
    """Write ``out/NAME.safetensors`` (fp16); header values in ``changes`` that are not None replace the run's.

    Args:
        weights: weights file exported by a run.
        name: name of the released model.
        out: output folder.
        first_gain: argument of :class:`~amd_restore.archs.flat_arch.FlatDenoiser`; None keeps that of the network.
        rewards: metrics used in training earlier stages, added to those of the run.
        mix: another weights file to average with.
        share: weight of ``mix`` in the average, in [0, 1].
        changes: values for the header.

    Returns:
        The path of the file.

    Raises:
        AMDRestoreError: the weights cannot be read or written, ``mix`` is another network, or the name is a path.
    """
    if not is_plain_name(name):
        raise AMDRestoreError(f"--name: {name!r} must be the name of a model, no path; --out takes the folder")
    header, state = load_checkpoint(weights)
    if mix is not None:
        header, state = mixed(header, state, mix, share)
    values: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    if first_gain is not None:
        values["network"] = {**header.network, "first_gain": first_gain}
    values["rewards"] = tuple(sorted({*header.rewards, *rewards}))
    header = dataclasses.replace(header, name=name, **values)
    path = out / f"{name}.safetensors"
    save_checkpoint(path, state, header)
    return path


def _without(value: Any, key: str) -> Any:
    return {k: v for k, v in value.items() if k != key} if isinstance(value, Mapping) else value


def mixed(header: Header, state: Mapping[str, Tensor], other: Path, share: float) -> tuple[Header, dict[str, Tensor]]:
    """Return tensors averaged with those of ``other``, and a header with the rewards of both.

    Raises:
        AMDRestoreError: another kind of network, codec or process, or a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise AMDRestoreError(f"--share must be from 0 to 1, got {share}")
    theirs, tensors = load_checkpoint(other)
    # Networks that differ only in the codec's standard deviation or the gain have the same layers.
    for key, scaling in (("network", "first_gain"), ("codec", "std"), ("process", ""), ("prediction_type", "")):
        ours, others = (_without(getattr(h, key), scaling) for h in (header, theirs))
        if ours != others:
            raise AMDRestoreError(f"{other}: {key} differs from that of {header.name}; only equal ones can be averaged")
    average = {key: torch.lerp(tensor, tensors[key], share) for key, tensor in state.items()}
    return dataclasses.replace(header, rewards=tuple(sorted({*header.rewards, *theirs.rewards}))), average


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = Parser(
        prog="amd-restore release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=path_option, required=True, help="exported .safetensors file of a run")
    parser.add_argument("--name", required=True, help="released name")
    parser.add_argument("--out", type=path_option, default=WEIGHTS_FOLDER, help="output folder")
    parser.add_argument("--licence", help="licence of the weights")
    parser.add_argument("--training_data", help="description of the training data")
    parser.add_argument("--time_shift", type=float, help="spacing of the steps (default: that of training)")
    parser.add_argument(
        "--first_gain", type=float, help="factor on the first step's detail (default: that of training)"
    )
    parser.add_argument("--mean", help="released name of the weights used at --fidelity 1 (default: none)")
    parser.add_argument(
        "--error_per_std", type=float, help="error per standard deviation, see benchmarks/scripts/fit_uncertainty.py"
    )
    parser.add_argument("--rewards", nargs="*", default=[], help="metrics used in training earlier stages")
    parser.add_argument(
        "--mix", type=path_option, help="another file to average with: same network, same initial weights"
    )
    parser.add_argument(
        "--share", type=float, default=0.5, help="weight of --mix in the average (default: %(default)s)"
    )
    parser.add_argument("--commit", help="code revision of the training (default: that recorded by the run)")
    values = vars(parser.parse_args(arguments))
    debug = values.pop("debug")

    def command() -> None:
        path = release(**values)
        say(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")

    return run_command(command, debug, parser.prog)
