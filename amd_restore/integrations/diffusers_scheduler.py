"""Samplers of this package as a diffusers scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from amd_restore.diffusion import PREDICTION_TYPES, build_process
from amd_restore.errors import AMDRestoreError
from amd_restore.weights import Header

_SAMPLERS = ("ode", "renoise")  # A scheduler can use only one call of the network per step.


@dataclass
class AMDRestoreSchedulerOutput(BaseOutput):
    """Result of one step.

    Args:
        prev_sample: state at the next, less noisy time; (B, C, h, w), float32.
        pred_original_sample: estimate of the clean latent in this step, same shape.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class AMDRestoreScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # their config_name clash
    """Single steps of :func:`amd_restore.diffusion.sample`.

    Timesteps are times in [0, 1], 1 at pure noise; they are not multiplied by 1000.

    Args:
        process: options of :func:`~amd_restore.diffusion.build_process`; None for the rectified flow.
        prediction_type: what the network predicts, see :meth:`~amd_restore.diffusion.Process.to_x0`.
        sampler: ``ode`` steps are deterministic; ``renoise`` draws fresh noise for every step after the first.
        time_shift: 1 for even steps; below 1, later steps have smaller times.

    Raises:
        AMDRestoreError: an unknown process, prediction type or sampler.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        process: Mapping[str, Any] | None = None,
        prediction_type: str = "v",
        sampler: str = "ode",
        time_shift: float = 1.0,
    ) -> None:
        for name, value, known in (
            ("prediction_type", prediction_type, PREDICTION_TYPES),
            ("sampler", sampler, _SAMPLERS),
        ):
            if value not in known:
                raise AMDRestoreError(f"scheduler: {name} must be one of {', '.join(known)}, not {value!r}")
        if not time_shift > 0:
            raise AMDRestoreError(f"scheduler: time_shift must be above 0, got {time_shift}")
        self.process = build_process(process or {})
        self.num_inference_steps: int | None = None
        self.timesteps = torch.empty(0, dtype=torch.float32)
        self._times = torch.empty(0, dtype=torch.float32)

    @classmethod
    def from_header(cls, header: Header) -> AMDRestoreScheduler:
        """Build the scheduler of a weights file."""
        # Use keywords, because diffusers treats positional values as defaults, which from_config would drop.
        return cls(
            process=dict(header.process),
            prediction_type=header.prediction_type,
            sampler=header.sampler,
            time_shift=header.time_shift,
        )

    @property
    def init_noise_sigma(self) -> float:
        """Return the standard deviation of the state at the first timestep."""
        return float(self.process.sigma(torch.ones((), dtype=torch.float32)))

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Set ``timesteps``, (num_inference_steps,), decreasing from 1.

        Raises:
            AMDRestoreError: fewer than one step.
        """
        self._times = self.process.times(num_inference_steps, device or "cpu", self.config["time_shift"])
        self.timesteps = self._times[:-1]
        self.num_inference_steps = num_inference_steps

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float) -> Tensor:
        """Return the state (B, C, h, w) scaled as the input of the network."""
        return sample * self.process.input_scale(self._batch(timestep, sample)).reshape(-1, 1, 1, 1)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor | float) -> Tensor:
        """Return noised states of clean latents (B, C, h, w) at times of shape () or (B,)."""
        return self.process.add_noise(original_samples, noise, self._batch(timesteps, original_samples))

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> AMDRestoreSchedulerOutput | tuple[Tensor, Tensor]:
        """Go from ``timestep`` to the one after it.

        Args:
            model_output: prediction of the network, (B, C, h, w).
            timestep: one of ``timesteps``.
            sample: current state, before :meth:`scale_model_input`.
            generator: source of the fresh noise of ``renoise``.
            variance_noise: that noise itself, standard normal, (B, C, h, w).
            return_dict: False to return a tuple.

        Raises:
            AMDRestoreError: ``timestep`` is not one of ``timesteps``.
        """
        found = (self.timesteps.cpu() == torch.as_tensor(timestep, dtype=torch.float32).cpu()).nonzero()
        if found.numel() != 1:
            raise AMDRestoreError(
                f"scheduler: timestep {float(timestep):g} is none of those that set_timesteps chose: "
                f"{[round(float(t), 4) for t in self.timesteps]}"
            )
        now, after = self._times[int(found)], self._times[int(found) + 1]
        state, t = sample.float(), self._batch(now, sample)
        x0 = self.process.to_x0(model_output.float(), state, t, self.config["prediction_type"])
        if after == 0:
            previous = x0
        elif self.config["sampler"] == "ode":
            previous = self.process.step(state, x0, t, self._batch(after, sample))
        else:
            if variance_noise is None:
                variance_noise = randn_tensor(x0.shape, generator, x0.device, x0.dtype)
            previous = self.process.add_noise(x0, variance_noise, self._batch(after, sample))
        if not return_dict:
            return previous, x0
        return AMDRestoreSchedulerOutput(prev_sample=previous, pred_original_sample=x0)

    def _batch(self, t: Tensor | float, like: Tensor) -> Tensor:
        return torch.as_tensor(t, dtype=torch.float32, device=like.device).expand(like.shape[0])
