"""Fidelity: from a sample with all its detail to the mean of all plausible images.

A restored image is the posterior mean plus detail. ``fidelity`` takes the detail away, in one of two ways:

- A student whose detail follows its noise: the noise is scaled by ``1 - fidelity``, and the detail with it. Without
  noise the network predicts nearly the mean. No second network, no second pass.
- A student that learned from the ground truth depends only weakly on its noise. Its header names weights that predict
  the mean (``mean``: its teacher, in one step without noise), and the two images are mixed. A fidelity between 0 and 1
  costs that network's evaluation, 1 costs only that.

Tiles agree as before: the scaled field is still a function of position. Numbers: benchmarks/2026-11-28_control.md.
"""

from __future__ import annotations

from amd_restore.diffusion import Draw
from amd_restore.errors import AMDRestoreError


def noise_level(fidelity: float) -> float:
    """Standard deviation of the noise, from 1 (fidelity 0) to 0 (fidelity 1).

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
