"""Supplements to perceptual losses: random views, coarse colours and the texture of cells."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

POOLS = (4, 8, 16)  # pixels a side
CHROMA = ((-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))  # Cb and Cr of ITU-R BT.601
STEPS = (1, 2)  # pixels; detail below four pixels, which the low-resolution image at x4 does not contain
STEEPEST = 0.1  # slopes are clamped here, so that edges count no more than texture
MIN_SIDE = 48  # pixels; no view is downscaled below the size that perceptual networks need
SHIFTS = 8  # positions of the window along each side


def random_view(sr: Tensor, gt: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Apply the same random shift, flip, transpose, downscaling and colour gain to two images.

    Minimising a network-based distance directly overfits it: it falls while similar distances do not. Averaging over
    random transforms prevents this (E-LPIPS, 1906.03973, section 4; the set of transforms is ours).

    Args:
        sr: restored images (B, 3, H, W), about [0, 1], with gradient.
        gt: ground truth, same shape.
        generator: source of randomness; a CPU generator avoids waiting for a GPU.

    Returns:
        The two views: a window :data:`SHIFTS` pixels smaller than the images (a quarter of a smaller side at most),
        at full, three quarters or half size. Only three sizes occur, so a GPU sets up few convolutions.
    """
    both = torch.cat([sr, gt])
    draws = torch.randint(0, SHIFTS, (4,), generator=generator, device=generator.device)
    top, left, flips, scale_draw = draws.tolist()
    for dim, place in ((2, top), (3, left)):
        room = min(SHIFTS, both.shape[dim] // 4)
        both = both.narrow(dim, place * room // SHIFTS, both.shape[dim] - room)
    if flips & 1:
        both = both.flip(3)
    if flips & 2:
        both = both.flip(2)
    if flips & 4:
        both = both.transpose(2, 3)
    side = min(both.shape[2:])
    if scale_draw == 0 and side >= 2 * MIN_SIDE:
        both = F.interpolate(both, scale_factor=0.5, mode="area")
    elif scale_draw == 1 and side >= 2 * MIN_SIDE:
        both = F.interpolate(both, scale_factor=0.75, mode="bilinear", antialias=True)
    gain = 0.8 + 0.2 * torch.rand(1, 3, 1, 1, generator=generator, dtype=torch.float32, device=generator.device)
    both = both * gain.to(both.device, non_blocking=True)
    view_sr, view_gt = both.chunk(2)
    return view_sr, view_gt


def pooled_l1(image: Tensor, gt: Tensor) -> Tensor:
    """Return the mean absolute error of means over squares of 4, 8 and 16 pixels, averaged over the three.

    It penalises blotches of wrong colour, to which features of classifiers are insensitive, without blurring texture.

    Args:
        image: (B, C, H, W), sides of at least 16.
        gt: same shape.
    """
    error = image - gt
    return torch.stack([F.avg_pool2d(error, side).abs().mean() for side in POOLS]).mean()


def diagonal_detail(image: Tensor) -> Tensor:
    """Return the finest diagonal band of the undecimated Haar transform (B, C, H - 1, W - 1).

    A checkerboard of single pixels with values ``m + a`` and ``m - a`` has ``a`` and ``-a`` here; edges along either
    axis have nothing.

    Args:
        image: (B, C, H, W).
    """
    across = image[..., 1:] - image[..., :-1]
    return (across[..., 1:, :] - across[..., :-1, :]) / 4.0


def chroma_detail(image: Tensor) -> list[Tensor]:
    """Return the differences of Cb and Cr between pixels one and two apart, along both axes.

    Gray detail has nothing here, whatever its contrast; nor has a constant colour.

    Args:
        image: RGB (B, 3, H, W), sides of at least 3.

    Returns:
        Four tensors (B, 2, H or less, W or less).
    """
    chroma = torch.einsum("oc,bchw->bohw", image.new_tensor(CHROMA), image)
    return [
        chroma.narrow(dim, step, chroma.shape[dim] - step) - chroma.narrow(dim, 0, chroma.shape[dim] - step)
        for step in STEPS
        for dim in (2, 3)
    ]


def cell_profile_distance(image: Tensor, gt: Tensor, patch: int) -> Tensor:
    """Compare how slopes are distributed over the positions in a cell with those of ``gt``.

    A network that predicts all pixels of a cell at once can produce a different texture at each position: a woven
    pattern of the variance, which pixel losses do not penalise. The overall strength of the texture does not count.

    Args:
        image: (B, C, H, W) in about [0, 1], sides multiples of ``patch``, with gradient.
        gt: same shape.
        patch: side of a cell in pixels.

    Returns:
        Scalar: mean absolute difference of log mean slopes, over positions and both directions.
    """
    distances = []
    for dim in (2, 3):
        profiles = []
        for picture in (image, gt):
            slope = (picture - picture.roll(1, dim)).abs().clamp(max=STEEPEST)
            places = F.pixel_unshuffle(slope, patch).unflatten(1, (-1, patch * patch)).mean(dim=(0, 1, 3, 4))
            profiles.append((places / places.mean().clamp_min(1e-6) + 1e-6).log())
        distances.append((profiles[0] - profiles[1]).abs().mean())
    return torch.stack(distances).mean()
