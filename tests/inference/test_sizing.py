"""Sizes are exact, and resizing neither aliases nor bleeds."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np
import pytest

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io.sizing import output_size, resize


@pytest.mark.parametrize("outscale", [0.1, 0.35, 0.5, 1.0, 1.1, 1.5, 2.5, 3.3, 4.0, 7.25])
def test_sides_are_rounded_half_up(outscale: float) -> None:
    for side in (*range(1, 60), 999, 4000):
        exact = Decimal(side) * Decimal(str(outscale))
        expected = max(1, int(exact.quantize(Decimal(1), ROUND_HALF_UP)))
        assert output_size(side, 7, 4, outscale)[0] == expected
        assert output_size(7, side, 4, outscale)[1] == expected


def test_decimal_meaning_of_a_factor() -> None:
    assert output_size(10, 10, 4, 0.35) == (4, 4)  # 0.35 as a float lies below 0.35, and 10 times that below 3.5
    assert output_size(15, 5, 4, 1.1) == (17, 6)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, (400, 800)),
        ({"max_side": 1000}, (400, 800)),
        ({"max_side": 800}, (400, 800)),
        ({"max_side": 300}, (150, 300)),
        ({"max_side": 99}, (50, 99)),  # 49.5 up
        ({"max_side": 1}, (1, 1)),
        ({"out_width": 333}, (167, 333)),  # 166.5 up
        ({"out_width": 5000}, (2500, 5000)),
        ({"out_width": 5000, "max_side": 500}, (250, 500)),
        ({"outscale": 10, "max_side": 500}, (250, 500)),
        ({"outscale": 0.001}, (1, 1)),
    ],
)
def test_size(arguments: dict[str, Any], expected: tuple[int, int]) -> None:
    assert output_size(100, 200, 4, **arguments) == expected


def test_longest_side_is_met_exactly() -> None:
    for height in range(1, 40):
        for width in range(1, 40):
            assert max(output_size(height, width, 4, max_side=31)) == min(31, 4 * max(height, width))
            assert output_size(height, width, 4, out_width=57)[1] == 57


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outscale": 2, "out_width": 100}, "--outscale and --width both"),
        ({"outscale": 0}, "--outscale must be a number above 0, not 0"),
        ({"outscale": -1.5}, "--outscale must be"),
        ({"outscale": float("nan")}, "--outscale must be"),
        ({"outscale": float("inf")}, "--outscale must be"),
        ({"max_side": 0}, "--max-side must be at least 1 pixel, not 0"),
        ({"out_width": -3}, "--width must be at least 1 pixel, not -3"),
    ],
)
def test_impossible_sizes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AMDRestoreError, match=message):
        output_size(10, 10, 4, **arguments)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 2), (20, 30, 3), (20, 30, 4)])
@pytest.mark.parametrize("size", [(7, 9), (40, 61), (7, 61), (1, 1), (20, 31)])
def test_constant_stays_constant(dtype: type, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    value = 0.3 if dtype is np.float32 else 0.3 * np.iinfo(dtype).max
    image: np.ndarray[Any, Any] = np.full(shape, value, dtype)
    out = resize(image, size)
    assert out.dtype == dtype and out.shape == (*size, *shape[2:])
    if dtype is np.float32:
        assert np.abs(out - image.flat[0]).max() < 1e-5
    else:
        assert (out == image.flat[0]).all()


def test_same_size_is_the_same_image() -> None:
    image = np.zeros((5, 6, 3), np.uint8)
    assert resize(image, (5, 6)) is image


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((64, 64), np.float32)
    stripes[:, ::2] = 1.0  # finer than the small image can show
    assert np.abs(resize(stripes, (16, 16))[4:-4, 4:-4] - 0.5).max() < 0.02


@pytest.mark.parametrize("size", [(16, 16), (100, 100), (41, 90)])
def test_position_is_kept(size: tuple[int, int]) -> None:
    """Pixel centres lie at (i + 1/2) / n of the side, whatever n is."""
    ramp = np.repeat((np.arange(40, dtype=np.float32)[None, :] + 0.5) / 40, 40, 0)
    out = resize(ramp, size)
    expected = (np.arange(size[1]) + 0.5) / size[1]
    inner = slice(size[1] // 8, -(size[1] // 8))
    assert np.abs(out[:, inner] - expected[inner]).max() < 2e-3


@pytest.mark.parametrize("size", [(9, 9), (77, 77), (9, 77)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_hidden_colour_does_not_bleed(size: tuple[int, int], dtype: type) -> None:
    high = 1.0 if dtype is np.float32 else 255
    image: np.ndarray[Any, Any] = np.zeros((32, 32, 4), dtype)
    image[8:24, 8:24] = np.array([0.8, 0.4, 0.2, 1.0]) * high  # on transparent black
    out = resize(image, size).astype(float) / high
    seen = out[..., 3] > 0.05
    assert seen.any() and (out[..., 3] < 0.5).any()
    assert np.abs(out[seen][:, :3] - (0.8, 0.4, 0.2)).max() < 0.01
