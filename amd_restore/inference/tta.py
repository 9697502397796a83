"""Test-time augmentation: the eight flips and quarter turns of an image, restored and averaged.

A network is not exactly equivariant: an image that is turned, restored and turned back comes out a little different.
The mean of all eight has less of that error. The noise decides which detail a sample has, so the noise is turned with
the image: every orientation then draws *the same* sample and their mean stays sharp. With a noise of its own for each,
the mean would be that of eight samples: a blur that ``fidelity`` gives for an eighth of the cost.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from amd_restore.arrays import Array, mirrored, quarter_turns, shuffle, unshuffle
from amd_restore.diffusion import Draw
from amd_restore.errors import AMDRestoreError

if TYPE_CHECKING:
    from torch import Tensor

TTA_MODES = ("mean", "medoid")
ORIENTATIONS = 8


def orient(image: Array, k: int) -> Array:
    """Orientation ``k`` in 0..7 of (B, C, H, W): ``k % 4`` quarter turns, then a mirror image from 4 on."""
    turned = quarter_turns(image, k % 4)
    return mirrored(turned) if k >= 4 else turned


def unorient(image: Array, k: int) -> Array:
    """Inverse of :func:`orient`."""
    return quarter_turns(mirrored(image) if k >= 4 else image, -(k % 4))


def orient_latent(latent: Array, k: int, patch: int) -> Array:
    """:func:`orient` of a latent whose channels hold the pixels of ``patch`` x ``patch`` cells: they turn, too."""
    return unshuffle(orient(shuffle(latent, patch), k), patch)


def medoid(samples: Tensor) -> Tensor:
    """Of (N, B, C, H, W) the one, for each image, with the smallest sum of mean absolute distances to the others.

    A choice for the whole of what it is given: take it over tiles and neighbours may choose differently.

    Returns:
        (B, C, H, W).
    """
    import torch

    distances = torch.stack([(samples - one).abs().mean(dim=(2, 3, 4)) for one in samples])  # (N, N, B)
    best = distances.sum(dim=1).argmin(dim=0)
    return samples[best, torch.arange(samples.shape[1], device=samples.device)]


def restore_oriented(
    restore: Callable[[Array, Draw], Array], lq: Array, draw: Draw, patch: int, mode: str = "mean"
) -> Array:
    """Restore all eight orientations of a window with noise that is turned with it; eight times the cost.

    The mean is tile-safe with the halo of the network, whose reach is the same in all directions.

    Args:
        restore: called as ``restore(window, draw)``; returns (B, 3, scale h, scale w).
        lq: (B, 3, h, w) in [0, 1].
        draw: noise of each step for ``lq`` as it is.
        patch: of the codec.
        mode: ``mean``, or ``medoid`` (of tensors only), which stays one sample but needs the whole image.

    Returns:
        (B, 3, scale h, scale w).

    Raises:
        AMDRestoreError: another mode.
    """
    if mode not in TTA_MODES:
        raise AMDRestoreError(f"tta must be one of {', '.join(TTA_MODES)}, not '{mode}'")
    draw = functools.cache(draw)  # the same noise eight times
    samples: list[Array] = []
    for k in range(ORIENTATIONS):

        def turned(step: int, k: int = k) -> Array:
            return orient_latent(draw(step), k, patch)

        sr = unorient(restore(orient(lq, k), turned), k)
        if mode == "mean" and samples:
            samples[0] = samples[0] + sr  # a running sum: eight large pictures need not fit
        else:
            samples.append(sr)
    if mode == "mean":
        return samples[0] / ORIENTATIONS
    import torch

    return medoid(torch.stack(samples))
