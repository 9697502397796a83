"""Animations, frame by frame."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import FRAME_SUFFIXES, Frame, Picture, read_frames, read_image, write_frames
from amd_restore.image_io.colour import srgb_profile

DURATIONS = [40, 120, 80]


def frames(channels: int = 3) -> list[Frame]:
    """Three pictures of few colours, so that GIF holds them exactly; the last channel of 2 and 4 is 0 or 255."""
    pictures = []
    for index in range(3):
        pixels = np.full((20, 30, channels), 255, np.uint8)
        pixels[2 + 5 * index : 7 + 5 * index, 3:11] = [200, 90, 30, 255][:channels] if channels > 2 else 60
        if channels in (2, 4):
            pixels[..., -1] = 0
            pixels[2 + 5 * index : 7 + 5 * index, 3:11, -1] = 255
        pictures.append(Picture(pixels, srgb_profile()))
    return [Frame(picture, duration) for picture, duration in zip(pictures, DURATIONS, strict=True)]


def visible(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """RGBA with hidden colours set to zero: files may store any there."""
    rgba = np.asarray(Image.fromarray(pixels).convert("RGBA")).copy()
    rgba[rgba[..., 3] == 0] = 0
    return rgba


@pytest.mark.parametrize("suffix", FRAME_SUFFIXES)
@pytest.mark.parametrize("channels", [3, 4])
def test_round_trip(tmp_path: Path, suffix: str, channels: int) -> None:
    path = tmp_path / f"a{suffix}"
    write_frames(path, frames(channels), plays=3, quality=100)
    opened = read_frames(path)
    assert (len(opened), opened.plays, opened.size) == (3, 3, (30, 20))
    for _ in range(2):  # may be iterated again
        back = list(opened)
        assert [frame.duration for frame in back] == DURATIONS
        for frame, expected in zip(back, frames(channels), strict=True):
            difference = visible(frame.picture.pixels).astype(int) - visible(expected.picture.pixels)
            assert np.abs(difference[..., 3]).max() == 0
            assert np.abs(difference).max() <= (90 if suffix == ".webp" else 0)  # WebP's colours have half resolution
            assert np.abs(difference).mean() < 3
            if suffix != ".gif":
                assert frame.picture.icc == srgb_profile()


@pytest.mark.parametrize("suffix", FRAME_SUFFIXES)
@pytest.mark.parametrize("plays", [0, 1, 2])
def test_plays(tmp_path: Path, suffix: str, plays: int) -> None:
    write_frames(tmp_path / f"a{suffix}", frames(), plays)
    assert read_frames(tmp_path / f"a{suffix}").plays == plays


def test_gray_stays_gray(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.png", frames(1))
    assert [frame.picture.pixels.shape[2] for frame in read_frames(tmp_path / "a.png")] == [1, 1, 1]


def test_partial_frames_are_composed(tmp_path: Path) -> None:
    """A frame of a GIF may store only what changes; what is read is what one sees."""
    whole = Image.new("RGB", (30, 20), "white")
    moved = whole.copy()
    moved.paste((255, 0, 0), (5, 5, 9, 9))
    whole.save(tmp_path / "a.gif", save_all=True, append_images=[moved], duration=50)
    second = list(read_frames(tmp_path / "a.gif"))[1].picture.pixels
    assert np.array_equal(second, np.asarray(moved))


def test_a_still_picture_is_one_frame(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), "red").save(tmp_path / "a.gif")
    opened = read_frames(tmp_path / "a.gif")
    assert len(opened) == 1 and next(iter(opened)).picture.pixels.shape == (4, 5, 3)
    assert read_image(tmp_path / "a.gif").pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", FRAME_SUFFIXES)
def test_animations_are_no_pictures(tmp_path: Path, suffix: str) -> None:
    write_frames(tmp_path / f"a{suffix}", frames())
    with pytest.raises(AMDRestoreError, match=rf"a\{suffix}: holds 3 frames; restore it frame by frame with --frames"):
        read_image(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    write_frames(path, [Frame(Picture(pixels), 50) for pixels in noise])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AMDRestoreError, match="truncated|broken") as caught:
        list(read_frames(path))
    assert "\n" not in str(caught.value)


def test_what_cannot_be(tmp_path: Path) -> None:
    first = frames()[0]
    with pytest.raises(AMDRestoreError, match="cannot write '.jpg' animations; use one of .png, .apng, .webp, .gif"):
        write_frames(tmp_path / "a.jpg", frames())
    with pytest.raises(AMDRestoreError, match="needs frames of one size, these have 2"):
        write_frames(tmp_path / "a.gif", [first, Frame(Picture(np.zeros((5, 5, 3), np.uint8)), 9)])
    with pytest.raises(AMDRestoreError, match="at least one frame"):
        write_frames(tmp_path / "a.gif", [])
    with pytest.raises(AMDRestoreError, match="quality must be a number from 1 to 100, not 0"):
        write_frames(tmp_path / "a.webp", frames(), quality=0)
    out = io.BytesIO()
    Image.new("RGB", (5, 4)).save(out, "JPEG")
    (tmp_path / "a.gif").write_bytes(out.getvalue())
    with pytest.raises(AMDRestoreError, match=r"a\.gif: JPEG holds no frames"):
        read_frames(tmp_path / "a.gif")
    with pytest.raises(AMDRestoreError, match="limit is 0.0001 megapixels"):
        write_frames(tmp_path / "b.gif", frames())
        read_frames(tmp_path / "b.gif", max_pixels=100)
