"""Forward processes ``x_t = alpha(t) x0 + sigma(t) noise`` on t in [0, 1], and the only place that converts
between what a network predicts and the clean image.

All of them run from data (t = 0) to the student's starting point (t = 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amd_restore.arrays import Array, cast, falling, ones_like
from amd_restore.errors import AMDRestoreError

if TYPE_CHECKING:
    import torch

PREDICTION_TYPES = ("v", "x0", "eps", "flow")


def _expand(t: Array, like: Array) -> Array:
    """(B,) -> (B, 1, 1, 1), so that it multiplies a batch of images."""
    return cast(t, like).reshape(-1, *[1] * (like.ndim - 1))


class Process:
    """A Gaussian forward process, given by its two coefficients.

    Subclasses define :meth:`alpha` and :meth:`sigma`; the rest follows.
    """

    name = "process"

    def alpha(self, t: Array) -> Array:
        """Weight of the clean image at time ``t`` in [0, 1], same shape as ``t``."""
        raise NotImplementedError

    def sigma(self, t: Array) -> Array:
        """Standard deviation of the noise at time ``t`` in [0, 1], same shape as ``t``."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Options that rebuild this process with :func:`build_process`."""
        return {"type": self.name}

    def add_noise(self, x0: Array, noise: Array, t: Array) -> Array:
        """Noised state x_t for ``x0`` and ``noise`` of shape (B, C, h, w) and ``t`` of shape (B,)."""
        return _expand(self.alpha(t), x0) * x0 + _expand(self.sigma(t), x0) * noise

    def unit_scale(self, t: Array) -> Array:
        """Factor that brings x_t to unit variance when x0 has unit variance, shape (B,)."""
        return (self.alpha(t) ** 2 + self.sigma(t) ** 2) ** -0.5

    def input_scale(self, t: Array) -> Array:
        """Scale applied to x_t before the network, shape (B,). Default: unit variance."""
        return self.unit_scale(t)

    def network_time(self, t: Array) -> Array:
        """Time passed to the network in place of ``t``, in [0, 1], same shape."""
        return t

    def to_x0(self, output: Array, x_t: Array, t: Array, prediction_type: str) -> Array:
        """Turn a network's output into its estimate of the clean image.

        Args:
            output: raw prediction, (B, C, h, w).
            x_t: the state it belongs to, same shape.
            t: times in [0, 1], (B,).
            prediction_type: ``x0``; ``eps``; ``flow`` (noise - x0); or ``v``, here
                ``(alpha eps - sigma x0) / sqrt(alpha^2 + sigma^2)``, which is Salimans & Ho's v (2202.00512, eq. 13)
                for variance-preserving processes and, for any process, EDM's preconditioning (2206.00364, eq. 7)
                up to sign: unit-variance target at every t, exactly ``-x0`` at pure noise.

        Raises:
            AMDRestoreError: for an unknown ``prediction_type``.
        """
        if prediction_type == "x0":
            return output
        alpha, sigma = _expand(self.alpha(t), x_t), _expand(self.sigma(t), x_t)
        if prediction_type == "v":
            scale = _expand(self.unit_scale(t), x_t)
            return alpha * scale**2 * x_t - sigma * scale * output
        if prediction_type == "flow":
            return (x_t - sigma * output) / (alpha + sigma)
        if prediction_type == "eps":
            # At alpha = 0 the noise says nothing about x0; the floor keeps the estimate finite.
            return (x_t - sigma * output) / alpha.clip(1e-3)
        raise AMDRestoreError(f"unknown prediction_type '{prediction_type}'; use one of {', '.join(PREDICTION_TYPES)}")

    def target(self, x0: Array, noise: Array, t: Array, prediction_type: str) -> Array:
        """What a perfect network would output; the inverse of :meth:`to_x0`. Shapes as there."""
        if prediction_type == "x0":
            return x0
        if prediction_type == "eps":
            return noise
        if prediction_type == "flow":
            return noise - x0
        if prediction_type == "v":
            alpha, sigma = _expand(self.alpha(t), x0), _expand(self.sigma(t), x0)
            return (alpha * noise - sigma * x0) * _expand(self.unit_scale(t), x0)
        raise AMDRestoreError(f"unknown prediction_type '{prediction_type}'; use one of {', '.join(PREDICTION_TYPES)}")

    def loss_weight(self, t: Array, floor: float = 0.05) -> Array:
        """Weight, shape (B,), that turns a squared x0 error into the squared error of ``v`` (EDM's 1 / c_out^2).

        ``floor`` bounds sigma from below so that nearly clean states do not dominate.
        """
        return (self.alpha(t) ** 2 + self.sigma(t) ** 2) / self.sigma(t).clip(floor) ** 2

    def noise_from_x0(self, x_t: Array, x0: Array, t: Array) -> Array:
        """The noise that leads from ``x0`` to ``x_t`` (t > 0), same shape."""
        return (x_t - _expand(self.alpha(t), x_t) * x0) / _expand(self.sigma(t), x_t).clip(1e-6)

    def step(self, x_t: Array, x0: Array, t: Array, s: Array) -> Array:
        """Deterministic step from time ``t`` to the earlier time ``s`` (DDIM, 2010.02502, eq. 12 with eta = 0).

        For the rectified flow this is one Euler step of its ODE.
        """
        return self.add_noise(x0, self.noise_from_x0(x_t, x0, t), s)

    def times(self, num_steps: int, device: torch.device | str | None = "cpu", shift: float = 1.0) -> Array:
        """``num_steps + 1`` times from 1 down to 0, evenly spaced before :func:`shift_time`; device None is NumPy.

        Raises:
            AMDRestoreError: when ``num_steps`` is below 1.
        """
        if num_steps < 1:
            raise AMDRestoreError(f"the number of steps must be at least 1, got {num_steps}")
        return shift_time(falling(num_steps + 1, device), shift)


def shift_time(t: Array, shift: float) -> Array:
    """Times in [0, 1] moved towards noise (``shift`` > 1) or towards the image (< 1); 0 and 1 stay, 1 moves nothing.

    The map ``shift t / (1 + (shift - 1) t)`` is that of Stable Diffusion 3 (2403.03206, eq. 23).
    """
    return t if shift == 1.0 else shift * t / ((1.0 - t) + shift * t)


class RectifiedFlow(Process):
    """Straight path ``x_t = (1 - t) x0 + t noise`` (2209.03003)."""

    name = "rectified_flow"

    def alpha(self, t: Array) -> Array:
        return 1.0 - t

    def sigma(self, t: Array) -> Array:
        return t


class FlowMatching(Process):
    """The rectified flow of Stable Diffusion 3 (2403.03206): the network takes the unscaled state and sigma.

    Args:
        shift: times move towards noise by :func:`shift_time`, as in training at this resolution; ``shift`` of the
            model's own scheduler.
    """

    name = "flow_matching"

    def __init__(self, shift: float = 1.0) -> None:
        if not shift > 0:
            raise AMDRestoreError(f"process {self.name}: shift must be positive, got {shift}")
        self.shift = float(shift)

    def config(self) -> dict[str, Any]:
        return {"type": self.name, "shift": self.shift}

    def alpha(self, t: Array) -> Array:
        return 1.0 - self.sigma(t)

    def sigma(self, t: Array) -> Array:
        return shift_time(t, self.shift)

    def input_scale(self, t: Array) -> Array:
        return ones_like(t)

    def network_time(self, t: Array) -> Array:
        return self.sigma(t)


class VariancePreserving(Process):
    """The discrete chain of DDPM (2006.11239) and Stable Diffusion, between its timesteps interpolated in log-SNR.

    ``t`` = k / (T - 1) is timestep k: t = 0 is the least noise of training, not the clean image. Arguments are those of
    diffusers' schedulers and mean the same.

    Args:
        num_train_timesteps: T.
        beta_start, beta_end: first and last variance step.
        beta_schedule: ``linear``, ``scaled_linear`` (in their roots) or ``squaredcos_cap_v2`` (2102.09672).
        trained_betas: all T variance steps, in place of the schedule.
        rescale_betas_zero_snr: last state is pure noise (2305.08891, algorithm 1).

    Raises:
        AMDRestoreError: an unknown schedule, or variance steps outside (0, 1].
    """

    name = "variance_preserving"

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        import torch

        count = len(trained_betas) if trained_betas else int(num_train_timesteps)
        if count < 2:
            raise AMDRestoreError(f"process {self.name}: num_train_timesteps must be at least 2, got {count}")
        # In float32 and this order, as in diffusers: networks were trained with those very numbers.
        if trained_betas:
            betas = torch.tensor(trained_betas, dtype=torch.float32, device="cpu")
        elif beta_schedule == "linear":
            betas = torch.linspace(beta_start, beta_end, count, dtype=torch.float32, device="cpu")
        elif beta_schedule == "scaled_linear":
            betas = torch.linspace(beta_start**0.5, beta_end**0.5, count, dtype=torch.float32, device="cpu") ** 2
        elif beta_schedule == "squaredcos_cap_v2":
            bars = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
            pairs = zip(bars[:-1], bars[1:], strict=True)
            betas = torch.tensor(
                [min(1 - later / now, 0.999) for now, later in pairs], dtype=torch.float32, device="cpu"
            )
        else:
            raise AMDRestoreError(
                f"process {self.name}: unknown beta_schedule '{beta_schedule}'; "
                "use linear, scaled_linear or squaredcos_cap_v2, or give trained_betas"
            )
        if not ((betas > 0) & (betas <= 1)).all():
            raise AMDRestoreError(f"process {self.name}: betas must lie in (0, 1]; check beta_start and beta_end")
        kept = (1.0 - betas).cumprod(0)
        if rescale_betas_zero_snr:
            roots = kept.sqrt()
            roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
            kept = roots**2
        self._config = {
            "num_train_timesteps": count,
            "beta_start": float(beta_start),
            "beta_end": float(beta_end),
            "beta_schedule": beta_schedule,
            "trained_betas": list(map(float, trained_betas)) if trained_betas else None,
            "rescale_betas_zero_snr": bool(rescale_betas_zero_snr),
        }
        kept64 = kept.double().clamp_min(1e-14)  # no signal at all has no logarithm
        self._log_snr = (kept64 / (1.0 - kept64)).log().float()

    def config(self) -> dict[str, Any]:
        return {"type": self.name, **self._config}

    def log_snr(self, t: Array) -> Array:
        """log(alpha^2 / sigma^2), same shape as ``t``."""
        import torch

        if self._log_snr.device != t.device:
            self._log_snr = self._log_snr.to(t.device)
        last = len(self._log_snr) - 1
        place = t.float() * last
        below = place.floor().clamp(0, last - 1)
        lower, upper = self._log_snr[below.long()], self._log_snr[below.long() + 1]
        return torch.lerp(lower, upper, place - below)

    def alpha(self, t: Array) -> Array:
        return self.log_snr(t).sigmoid().sqrt()

    def sigma(self, t: Array) -> Array:
        return (-self.log_snr(t)).sigmoid().sqrt()

    def unit_scale(self, t: Array) -> Array:
        return ones_like(t)  # exactly, not up to rounding


def build_process(options: Mapping[str, Any]) -> Process:
    """Process from its :meth:`Process.config`, as in ``{"type": "flow_matching", "shift": 3.0}``.

    Raises:
        AMDRestoreError: for an unknown type or key, or a value out of range.
    """
    arguments = dict(options)
    kind = arguments.pop("type", RectifiedFlow.name)
    if kind == RectifiedFlow.name:
        return RectifiedFlow()
    for cls in (VariancePreserving, FlowMatching):
        if kind == cls.name:
            try:
                return cls(**arguments)
            except TypeError as error:  # names the key
                reason = str(error).removeprefix(f"{cls.__name__}.__init__() ")
                raise AMDRestoreError(f"process {kind}: {reason}; check diffusion.process") from error
    known = (RectifiedFlow, VariancePreserving, FlowMatching)
    raise AMDRestoreError(f"unknown process '{kind}'; use {' or '.join(cls.name for cls in known)}")
