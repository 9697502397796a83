"""What feature losses see: random views of a few sizes, and colours averaged over squares."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from amd_restore.losses.perceptual import MIN_SIDE, SHIFTS, random_view

DRAWS = 600


def views(height: int, width: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Views of an image whose channels hold each pixel's row, column and 1, and of a second image."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows / height, columns / width, torch.ones(height, width)])[None]
    generator = torch.Generator().manual_seed(0)
    return [random_view(image, image + 0.5, generator) for _ in range(DRAWS)]


@pytest.mark.parametrize(
    ("size", "sides"),
    [((128, 128), {120, 90, 60}), ((256, 256), {248, 186, 124}), ((48, 48), {40}), ((16, 16), {12})],
)
def test_views_of_squares_have_three_sizes_at_most(size: tuple[int, int], sides: set[int]) -> None:
    shapes = Counter(tuple(sr.shape) for sr, _ in views(*size))
    assert set(shapes) == {(1, 3, side, side) for side in sides}


def test_views_of_rectangles_add_their_transposes() -> None:
    shapes = {tuple(sr.shape[2:]) for sr, _ in views(104, 128)}
    assert shapes == {(96, 120), (72, 90), (48, 60), (120, 96), (90, 72), (60, 48)} and 96 >= 2 * MIN_SIDE


def test_views_are_spread_over_places_mirrors_and_sizes() -> None:
    side, places, mirrors, sizes = 128, Counter[tuple[int, int]](), Counter[tuple[bool, ...]](), Counter[int]()
    for sr, gt in views(side, side):
        sizes[sr.shape[2]] += 1
        assert sr.shape == gt.shape
        gain = sr[:, 2].mean()
        assert 0.8 <= gain <= 1.0
        row, column = sr[0, 0] / (sr[0, 0].max() or 1), sr[0, 1] / (sr[0, 1].max() or 1)
        is_transposed = bool((row[0, -1] - row[0, 0]).abs() > 0.5)
        down, right = (row[-1, 0] > row[0, 0], column[0, -1] > column[0, 0])
        if is_transposed:
            down, right = (row[0, -1] > row[0, 0], column[-1, 0] > column[0, 0])
        mirrors[bool(down), bool(right), is_transposed] += 1
        if sr.shape[2] == side - SHIFTS:
            # Channels have gains of their own, so a place is read off as a ratio: least over greatest.
            least, greatest = (sr[0, :2].amin(dim=(1, 2)), sr[0, :2].amax(dim=(1, 2)))
            ratio = least / greatest
            found = (ratio * (side - SHIFTS - 1) / (1 - ratio)).round().int().tolist()
            places[found[0], found[1]] += 1
    assert len(mirrors) == 8 and min(mirrors.values()) > DRAWS / 8 / 2
    assert sizes[60] > DRAWS / 8 / 2 and sizes[90] > DRAWS / 8 / 2 and sizes[120] > DRAWS / 2
    for axis in (0, 1):
        counts = Counter(place[axis] for place in places.elements())
        assert set(counts) == set(range(SHIFTS)) and min(counts.values()) > 0.5 * sizes[120] / SHIFTS


def test_both_images_have_the_same_view_and_the_first_keeps_its_gradient() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, 96, 96, generator=generator, requires_grad=True)
    for _ in range(20):
        sr, gt = random_view(image, image.detach(), generator)
        assert torch.equal(sr.detach(), gt)
        sr.sum().backward()
    assert image.grad is not None and float(image.grad[:, :, SHIFTS:-SHIFTS, SHIFTS:-SHIFTS].min()) > 0
