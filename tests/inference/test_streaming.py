"""Files written row by row: pixels, metadata, and what remains when something goes wrong."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from tiny_model import save_tiny

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture, decode, is_streamed, read_image, write_image
from amd_restore.image_io.png import filtered
from amd_restore.image_io.tiff import write_tiff
from amd_restore.pipeline import RestorationPipeline

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noisy(height: int, width: int, channels: int, dtype: Any, seed: int = 0) -> np.ndarray[Any, Any]:
    """Smooth enough that filters matter, with grain."""
    y, x = np.mgrid[0:height, 0:width, 0:channels][:2]
    values = (y * 0.7 + x) / (height + width) + np.random.default_rng(seed).normal(0, 0.03, (height, width, channels))
    high = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    return (values.clip(0, 1) * high).astype(dtype)


def in_bands(pixels: np.ndarray[Any, Any], *sizes: int) -> Iterator[np.ndarray[Any, Any]]:
    start = 0
    for size in (*sizes, len(pixels)):
        yield pixels[start : start + size]
        start += size


def exif_block() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x8769] = {0x9003: "2026:01:02 03:04:05", 0xA002: 1, 0xA003: 1}
    exif[0x8825] = {1: "N", 2: (52.0, 30.0, 1.5)}
    return exif.tobytes()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_come_back(tmp_path: Path, suffix: str, channels: int, dtype: Any) -> None:
    pixels = noisy(61, 37, channels, dtype)
    path = tmp_path / f"out{suffix}"
    assert is_streamed(path)
    write_image(path, Picture(pixels), rows=in_bands(pixels, 1, 0, 30, 5))
    found = read_image(path)
    assert found.pixels.dtype == dtype
    assert np.array_equal(found.pixels, pixels)
    if channels in (1, 3) or (channels == 4 and suffix == ".png"):  # OpenCV multiplies the alpha of a TIFF in
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
        other = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert other is not None
        assert np.array_equal(np.atleast_3d(other), pixels[..., order])


def test_float_pixels(tmp_path: Path) -> None:
    pixels = noisy(20, 30, 3, np.float32)
    write_image(tmp_path / "a.tif", Picture(pixels), rows=in_bands(pixels, 7))
    assert np.array_equal(read_image(tmp_path / "a.tif").pixels, pixels)
    write_image(tmp_path / "a.png", Picture(pixels), rows=in_bands(pixels, 7))
    assert np.abs(read_image(tmp_path / "a.png").pixels / 65535 - pixels).max() < 1e-5


def test_big_tiff_is_read_by_others() -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = noisy(700, 900, 3, np.uint8)  # several strips
    picture = Picture(pixels, PROFILE, exif_block(), (300.0, 150.0))
    file = io.BytesIO()
    write_tiff(file, picture, in_bands(pixels, 100), classic_limit=0)
    assert file.getvalue()[:4] == b"II+\0"
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as tiff:
        assert tiff.is_bigtiff
        page = tiff.pages[0]
        assert np.array_equal(page.asarray(), pixels)
        assert len(page.dataoffsets) == 2
        assert page.tags[34675].value == PROFILE
        assert page.tags["ExifTag"].value["DateTimeOriginal"] == "2026:01:02 03:04:05"
    found = decode(file.getvalue())
    assert np.array_equal(found.pixels, pixels)
    assert found.dpi == (300.0, 150.0)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_metadata_are_kept_and_made_right(tmp_path: Path, suffix: str) -> None:
    pixels = noisy(40, 50, 3, np.uint8)
    path = tmp_path / f"a{suffix}"
    write_image(path, Picture(pixels, PROFILE, exif_block(), (300.0, 150.0)), rows=[pixels])
    found = read_image(path)
    assert found.icc == PROFILE
    assert found.dpi == pytest.approx((300, 150), rel=1e-3)
    assert found.exif is not None
    exif = Image.Exif()
    exif.load(found.exif)
    assert exif[0x010F] == "Maker"
    inner = exif.get_ifd(0x8769)
    assert inner[0x9003] == "2026:01:02 03:04:05"
    assert (inner[0xA002], inner[0xA003]) == (50, 40)  # the size now
    assert exif.get_ifd(0x8825)[1] == "N"


def test_every_filter_is_used_and_right() -> None:
    """Lines of which each is easiest for another filter, undone as the specification says."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, 60).astype(np.uint8)
    ramp = (np.arange(60) // 3 * 5).astype(np.uint8)
    lines = np.stack([ramp, noise, noise, ((noise.astype(int) + 9) // 2).astype(np.uint8), ramp, noise])
    lines[3, 3:] = [(int(a) + int(b)) // 2 for a, b in zip(lines[3, :-3], lines[2, 3:], strict=True)]
    above, out = np.zeros(60, np.uint8), filtered(lines, np.zeros(60, np.uint8), 3)
    assert len(set(out[:, 0].tolist())) >= 3
    for line, (kind, *rest) in zip(lines, out.tolist(), strict=True):
        undone: list[int] = []
        for i, value in enumerate(rest):
            a, c = (undone[i - 3], int(above[i - 3])) if i >= 3 else (0, 0)
            b = int(above[i])
            nearest = min((a, b, c), key=lambda x, p=a + b - c: abs(p - x))  # type: ignore[misc]
            undone.append((value + {1: a, 2: b, 3: (a + b) // 2, 4: nearest}[kind]) % 256)
        assert undone == line.tolist()
        above = line


def test_rows_must_fit(tmp_path: Path) -> None:
    pixels = noisy(20, 10, 3, np.uint8)
    for rows, message in (
        ([pixels[:-1]], "19 rows came for a picture of 20"),
        ([pixels, pixels], "40 rows came"),
        ([pixels[:, :9]], "do not fit"),
    ):
        for suffix in (".png", ".tif", ".bmp"):
            with pytest.raises(AMDRestoreError, match=message):
                write_image(tmp_path / f"a{suffix}", Picture(pixels), rows=rows)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    pixels = noisy(20, 10, 3, np.uint8)

    def failing() -> Iterator[np.ndarray[Any, Any]]:
        yield pixels[:10]
        assert any(path.suffix == ".part" for path in tmp_path.iterdir())
        raise KeyboardInterrupt

    for suffix in (".png", ".tif"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"old")
        with pytest.raises(KeyboardInterrupt):
            write_image(path, Picture(pixels), rows=failing())
        assert path.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.tif"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> RestorationPipeline:
    path = save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")
    return RestorationPipeline.from_pretrained(path, "cpu", "float32")


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, np.uint8), (2, np.uint16), (3, np.uint16), (3, np.float32), (4, np.uint8)]
)
def test_streamed_is_what_was_not_streamed(
    tmp_path: Path, pipeline: RestorationPipeline, channels: int, dtype: Any
) -> None:
    pixels = noisy(33, 19, channels, dtype)
    if channels in (2, 4):
        pixels[:10, :10, -1] = 0
    expected = pipeline.restore_image(pixels, tile=9, seed=3)
    bands = list(pipeline.restore_rows(pixels, tile=9, seed=3))
    assert len(bands) == 4
    assert np.array_equal(np.concatenate(bands), expected)
    for suffix in (".tif", ".png", ".webp"):
        path = tmp_path / f"a{suffix}"
        pipeline.restore_to(path, Picture(pixels, dpi=(100.0, 100.0)), tile=9, seed=3)
        found = read_image(path)
        assert found.pixels.shape[:2] == (132, 76)
        if suffix == ".webp":
            continue
        assert found.dpi == pytest.approx((400, 400), rel=1e-3)  # as large on paper as before
        if suffix == ".png" and dtype is np.float32:
            assert np.abs(found.pixels / 65535 - expected).max() < 1e-5
        else:
            assert np.array_equal(found.pixels, expected)


def test_bad_arguments_are_refused_before_anything_is_made(tmp_path: Path, pipeline: RestorationPipeline) -> None:
    picture = Picture(noisy(8, 8, 3, np.uint8))
    for options, message in (({"num_steps": 0}, "steps"), ({"max_memory": 1e6}, "1 MiB of memory are too little")):
        with pytest.raises(AMDRestoreError, match=message):
            pipeline.restore_rows(picture.pixels, **options)
        with pytest.raises(AMDRestoreError, match=message):
            pipeline.restore_to(tmp_path / "a.png", picture, **options)
    assert list(tmp_path.iterdir()) == []
