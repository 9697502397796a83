"""What goes with a perceptual loss: random views, and a loss for the coarse colours that networks overlook."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

POOLS = (4, 8, 16)  # pixels a side
STEEPEST = 0.1  # slopes are cut off here, so that edges count no more than texture
MIN_SIDE = 48  # pixels; perceptual networks need some room, so smaller images are not downscaled below it
SHIFTS = 8  # places of the window along each side


def random_view(sr: Tensor, gt: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same random shift, flip, transpose, downscaling and colour gain of two images.

    A network-based distance minimised directly is also *fooled*: it falls while others of its kind do not. Averaged
    over random transforms it is much harder to fool (E-LPIPS, 1906.03973, section 4; the set of transforms is ours).

    Args:
        sr: restored images (B, 3, H, W), about [0, 1], with gradient.
        gt: ground truth, same shape.
        generator: source of randomness; one of the CPU saves waiting for a GPU.

    Returns:
        The two views: a window :data:`SHIFTS` pixels smaller than the images (a quarter of a smaller side at most),
        whole, at three quarters or at half of its size. So square images of a size have views of three sizes, for
        which a GPU's convolutions are set up once.
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
    """Mean absolute error of means over squares of 4, 8 and 16 pixels, averaged over the three.

    Networks trained to classify hardly see blotches of wrong colour; texture, which L1 would blur, has no say here.

    Args:
        image: (B, C, H, W), sides of at least 16.
        gt: same shape.
    """
    error = image - gt
    return torch.stack([F.avg_pool2d(error, side).abs().mean() for side in POOLS]).mean()


def cell_profile_distance(image: Tensor, gt: Tensor, patch: int) -> Tensor:
    """How unevenly slopes are spread over the places of a cell, compared with those of ``gt``.

    A network that draws all pixels of a cell at once can draw another texture at each place of it: a woven pattern
    that no pixel loss notices, because it is in the variance. The strength of the texture as a whole has no say.

    Args:
        image: (B, C, H, W) in about [0, 1], sides multiples of ``patch``, with gradient.
        gt: same shape.
        patch: side of a cell in pixels.

    Returns:
        Scalar: mean absolute difference of the logarithms of the mean slopes, over places and both directions.
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
