"""Versioned header of a weights file: how to build and run its network, and its origin."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amd_restore.diffusion import PREDICTION_TYPES, SAMPLERS, STARTS, Recipe
from amd_restore.errors import AMDRestoreError

# Version 2 added time_shift; files of version 1 have evenly spaced times. Version 3 added start, start_noise and bases,
# and is written only if they are set, so that earlier programs can read other files.
FORMAT_VERSION = 3
KINDS = ("student", "teacher")


@dataclass(frozen=True)
class Header:
    """Header of a weights file.

    Args:
        name: name of the model, as in ``x4-classical``.
        kind: ``student`` (few steps) or ``teacher`` (many).
        scale: upscaling factor.
        network: ``type`` in ``ARCH_REGISTRY`` and its arguments.
        codec: options of :func:`~amd_restore.diffusion.build_codec`.
        process: options of :func:`~amd_restore.diffusion.build_process`.
        prediction_type: what the network predicts, see :meth:`~amd_restore.diffusion.Process.to_x0`.
        steps: numbers of steps it was trained for or tested with.
        default_steps: default number of steps.
        sampler, time_shift, start, start_noise: see :class:`~amd_restore.diffusion.Recipe`.
        mean: released name of weights that predict the mean of this network's samples in one step, for full fidelity.
            Empty: the network without noise.
        error_per_std: expected error per standard deviation of samples, see
            :func:`~amd_restore.postprocess.uncertainty.expected_error`; 0: not fitted.
        bases: fingerprints of base weights in other files, under ``network`` (for an adapter) and ``codec``.
        degradation: description of the degradation in training.
        training_data: description of the training data.
        licence: licence of the weights.
        rewards: metrics used as rewards or losses, hence not held out for this model.
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
        """Return the recipe of ``num_steps`` steps; None for the default."""
        steps = self.default_steps if num_steps is None else num_steps
        return Recipe(steps, self.sampler, self.time_shift, self.start, self.start_noise)

    def to_json(self) -> str:
        """Return one line of JSON, with the version of the format."""
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
        """Inverse of :meth:`to_json`; ignores unknown keys.

        Raises:
            AMDRestoreError: not JSON, another format version, a missing key or a bad value.
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


def _as_tuple(key: str, value: Any) -> tuple[Any, ...]:
    _require(isinstance(value, list | tuple), key, "must be a list")
    return tuple(value)


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require(condition: bool, key: str, problem: str) -> None:
    if not condition:
        raise AMDRestoreError(f"header: '{key}' {problem}")
