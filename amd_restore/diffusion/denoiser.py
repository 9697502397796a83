"""The one calling convention: ``x0 = denoiser(x_t, t, cond)``, whatever the network predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from amd_restore.arrays import Array, autocast, broadcast, cast, floats, where
from amd_restore.diffusion.process import Process

if TYPE_CHECKING:
    import torch


def given_condition(cond: Array | None, null_cond: Array, keep: Array | None, x_t: Array) -> Array:
    """Condition with the null condition where there is none.

    Args:
        cond: (B, K, h, w); None is the null condition everywhere.
        null_cond: the learned null condition (1, K, 1, 1).
        keep: bool (B,), False where the null condition replaces ``cond``; None keeps all.
        x_t: the state (B, C, h, w), for its size and type.

    Returns:
        (B, K, h, w).
    """
    null = cast(broadcast(null_cond, (x_t.shape[0], null_cond.shape[1], *x_t.shape[2:])), x_t)
    if cond is None:
        return null
    return cond if keep is None else where(keep[:, None, None, None], cond, null)


class Denoiser:
    """A network as an estimator of the clean latent.

    Args:
        net: called as ``net(x_t, t, cond, keep)``; returns the shape of ``x_t``.
        process: forward process it was trained on.
        prediction_type: what it predicts, see :meth:`Process.to_x0`.
        dtype: arithmetic of a network of torch; another than float32 runs under autocast, None is float32. All else is
            float32.
    """

    def __init__(
        self,
        net: Callable[..., Array],
        process: Process,
        prediction_type: str = "v",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.net, self.process, self.prediction_type, self.dtype = net, process, prediction_type, dtype

    def __call__(self, x_t: Array, t: Array, cond: Array | None, keep: Array | None = None) -> Array:
        """Estimate x0.

        Args:
            x_t: noised state (B, C, h, w).
            t: times in [0, 1], (B,).
            cond: condition (B, K, h, w), or None for the unconditional estimate.
            keep: bool (B,), False where the condition is dropped; None keeps all.

        Returns:
            (B, C, h, w), float32 (the conversion runs in full precision under autocast too).
        """
        scale = self.process.input_scale(t).reshape(-1, 1, 1, 1)
        with autocast(x_t, self.dtype):
            output = self.net(x_t * scale, self.process.network_time(t), cond, keep)
        return self.process.to_x0(floats(output), floats(x_t), t, self.prediction_type)


class GuidedDenoiser(Denoiser):
    """Classifier-free guidance (2207.12598) in x0-space: every estimate is ``uncond + w (cond - uncond)``.

    Args:
        denoiser: the plain one.
        guidance_scale: w.
    """

    def __init__(self, denoiser: Denoiser, guidance_scale: float) -> None:
        super().__init__(denoiser.net, denoiser.process, denoiser.prediction_type, denoiser.dtype)
        self.plain, self.guidance_scale = denoiser, guidance_scale

    def __call__(self, x_t: Array, t: Array, cond: Array | None, keep: Array | None = None) -> Array:
        uncond = self.plain(x_t, t, None)
        if cond is None:
            return uncond
        return uncond + self.guidance_scale * (self.plain(x_t, t, cond, keep) - uncond)
