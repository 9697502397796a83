"""Fidelity: how much of the noise the sampler gets to see.

A restored picture is the posterior mean plus detail that the noise decides. Scaling the noise by ``1 - fidelity``
scales that detail: at 0 the sample is what it always was, at 1 the network is asked without noise and answers with
(nearly) the posterior mean, smooth and as close to the truth on average as it can get. There is no second network
and no second pass, and tiles agree as before: the scaled field is still a function of position.

How much that is depends on the student. The first version of x4-classical, on Set5 in one step: fidelity 0 gives
29.43 dB PSNR-Y and LPIPS 0.122, fidelity 1 gives 30.90 dB and 0.182, as the teacher's one-step answer, trained to be
the posterior mean (30.92 dB, 0.187). The second version learned from the ground truth and hardly heeds its noise:
29.43 dB, 0.101 and 29.51 dB, 0.101. Mixing sample and mean afterwards lies on the same curve.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from amd_restore.errors import AMDRestoreError

Draw = Callable[[int], Tensor]  # step -> its noise, of the shape of the latent


def noise_level(fidelity: float) -> float:
    """Deviation of the noise, from 1 (fidelity 0) to 0 (fidelity 1).

    Raises:
        AMDRestoreError: ``fidelity`` is not in [0, 1].
    """
    if not 0 <= fidelity <= 1:
        raise AMDRestoreError(f"fidelity must lie between 0 (detail) and 1 (faithful), got {fidelity}")
    return 1.0 - fidelity


def tempered(draw: Draw, fidelity: float) -> Draw:
    """The same noise at the level of ``fidelity``, for the first step and for every fresh one.

    Args:
        draw: standard normal noise of a step.
        fidelity: 0 returns ``draw`` itself, so that results stay the same bit for bit.

    Raises:
        AMDRestoreError: ``fidelity`` is not in [0, 1].
    """
    level = noise_level(fidelity)
    return draw if level == 1 else lambda step: draw(step) * level
