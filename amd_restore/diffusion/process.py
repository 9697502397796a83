"""Forward processes ``x_t = alpha(t) x0 + sigma(t) noise`` on t in [0, 1], and the only place that converts
between what a network predicts and the clean image.

All of them run from data (t = 0) to the student's starting point (t = 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from amd_restore.errors import AMDRestoreError

PREDICTION_TYPES = ("v", "x0", "eps", "flow")


def _expand(t: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1), so that it multiplies a batch of images."""
    return t.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


class Process:
    """A Gaussian forward process, given by its two coefficients.

    Subclasses define :meth:`alpha` and :meth:`sigma`; the rest follows.
    """

    name = "process"

    def alpha(self, t: Tensor) -> Tensor:
        """Weight of the clean image at time ``t`` in [0, 1], same shape as ``t``."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at time ``t`` in [0, 1], same shape as ``t``."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Options that rebuild this process with :func:`build_process`."""
        return {"type": self.name}

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noised state x_t for ``x0`` and ``noise`` of shape (B, C, h, w) and ``t`` of shape (B,)."""
        return _expand(self.alpha(t), x0) * x0 + _expand(self.sigma(t), x0) * noise

    def input_scale(self, t: Tensor) -> Tensor:
        """Factor that brings x_t to unit variance when x0 has unit variance, shape (B,)."""
        return (self.alpha(t) ** 2 + self.sigma(t) ** 2).rsqrt()

    def to_x0(self, output: Tensor, x_t: Tensor, t: Tensor, prediction_type: str) -> Tensor:
        """Turn a network's output into its estimate of the clean image.

        Args:
            output: what the network answered, (B, C, h, w).
            x_t: the state it was asked about, same shape.
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
            scale = _expand(self.input_scale(t), x_t)
            return alpha * scale**2 * x_t - sigma * scale * output
        if prediction_type == "flow":
            return (x_t - sigma * output) / (alpha + sigma)
        if prediction_type == "eps":
            # At alpha = 0 the noise says nothing about x0; the floor keeps the estimate finite.
            return (x_t - sigma * output) / alpha.clamp_min(1e-3)
        raise AMDRestoreError(f"unknown prediction_type '{prediction_type}'; use one of {', '.join(PREDICTION_TYPES)}")

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, prediction_type: str) -> Tensor:
        """What a perfect network would output; the inverse of :meth:`to_x0`. Shapes as there."""
        if prediction_type == "x0":
            return x0
        if prediction_type == "eps":
            return noise
        if prediction_type == "flow":
            return noise - x0
        if prediction_type == "v":
            alpha, sigma = _expand(self.alpha(t), x0), _expand(self.sigma(t), x0)
            return (alpha * noise - sigma * x0) * _expand(self.input_scale(t), x0)
        raise AMDRestoreError(f"unknown prediction_type '{prediction_type}'; use one of {', '.join(PREDICTION_TYPES)}")

    def loss_weight(self, t: Tensor, floor: float = 0.05) -> Tensor:
        """Weight, shape (B,), that turns a squared x0 error into the squared error of ``v`` (EDM's 1 / c_out^2).

        ``floor`` bounds sigma from below so that nearly clean states do not dominate.
        """
        return (self.alpha(t) ** 2 + self.sigma(t) ** 2) / self.sigma(t).clamp_min(floor) ** 2

    def noise_from_x0(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """The noise that leads from ``x0`` to ``x_t`` (t > 0), same shape."""
        return (x_t - _expand(self.alpha(t), x_t) * x0) / _expand(self.sigma(t), x_t).clamp_min(1e-6)

    def step(self, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Deterministic step from time ``t`` to the earlier time ``s`` (DDIM, 2010.02502, eq. 12 with eta = 0).

        For the rectified flow this is one Euler step of its ODE.
        """
        return self.add_noise(x0, self.noise_from_x0(x_t, x0, t), s)

    def times(self, num_steps: int, device: torch.device | str = "cpu", shift: float = 1.0) -> Tensor:
        """``num_steps + 1`` times from 1 down to 0, evenly spaced before :func:`shift_time`.

        Raises:
            AMDRestoreError: when ``num_steps`` is below 1.
        """
        if num_steps < 1:
            raise AMDRestoreError(f"the number of steps must be at least 1, got {num_steps}")
        return shift_time(torch.linspace(1.0, 0.0, num_steps + 1, device=device), shift)


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Times in [0, 1] moved towards noise (``shift`` > 1) or towards the image (< 1); 0 and 1 stay, 1 moves nothing.

    The map ``shift t / (1 + (shift - 1) t)`` is that of Stable Diffusion 3 (2403.03206, eq. 23).
    """
    return t if shift == 1.0 else shift * t / ((1.0 - t) + shift * t)


class RectifiedFlow(Process):
    """Straight path ``x_t = (1 - t) x0 + t noise`` (2209.03003)."""

    name = "rectified_flow"

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t


class ResidualShift(Process):
    """ResShift (2307.12348): the chain ends at the upsampled ``lq`` plus noise of deviation ``kappa``.

    In the residual domain the upsampled ``lq`` is zero, so ``x_t = (1 - eta) x0 + kappa sqrt(eta) noise`` with
    ``sqrt(eta)`` growing linearly in t.
    """

    name = "residual_shift"

    def __init__(self, kappa: float = 2.0) -> None:
        if kappa <= 0:
            raise AMDRestoreError(f"kappa must be positive, got {kappa}")
        self.kappa = kappa

    def config(self) -> dict[str, Any]:
        return {"type": self.name, "kappa": self.kappa}

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t**2

    def sigma(self, t: Tensor) -> Tensor:
        return self.kappa * t


def build_process(options: Mapping[str, Any]) -> Process:
    """Process from ``{"type": "rectified_flow"}`` or ``{"type": "residual_shift", "kappa": 2.0}``.

    Raises:
        AMDRestoreError: for an unknown type.
    """
    kind = options.get("type", RectifiedFlow.name)
    if kind == RectifiedFlow.name:
        return RectifiedFlow()
    if kind == ResidualShift.name:
        return ResidualShift(float(options.get("kappa", 2.0)))
    raise AMDRestoreError(f"unknown process '{kind}'; use {RectifiedFlow.name} or {ResidualShift.name}")
