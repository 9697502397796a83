"""Tiles: where they lie, that their weights add up, and that tiled results equal untiled ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from places import REPOSITORY
from tiny_model import save_tiny
from torch import Tensor
from torch.nn import functional as F

from amd_restore.errors import AMDRestoreError
from amd_restore.inference.tiling import blend_weights, blend_width, plan_axis, restore_bands
from amd_restore.inference.window import DEFAULT_HALO
from amd_restore.pipeline import RestorationPipeline

PHOTOGRAPH = REPOSITORY / "lowres" / "kingfisher.png"


@pytest.mark.parametrize("length", [1, 7, 8, 31, 64, 100])
@pytest.mark.parametrize(("tile", "halo"), [(1, 0), (3, 2), (8, 3), (16, 16), (200, 5)])
def test_spans_cover_the_axis(length: int, tile: int, halo: int) -> None:
    spans = plan_axis(length, tile, halo)
    assert spans[0].start == 0 and spans[-1].stop == length
    assert all(a.stop == b.start for a, b in zip(spans[:-1], spans[1:], strict=True))
    sizes = [span.stop - span.start for span in spans]
    assert max(sizes) <= tile and max(sizes) - min(sizes) <= 1
    for span in spans:
        assert span.outer_start == max(span.start - halo, 0)
        assert span.outer_stop == min(span.stop + halo, length)


def test_spans_are_aligned() -> None:
    for span in plan_axis(100, 18, 5, align=4):
        assert all(value % 4 == 0 for value in (span.start, span.stop, span.outer_start, span.outer_stop))
        assert span.stop - span.start <= 16


def test_spans_refuse_nonsense() -> None:
    with pytest.raises(AMDRestoreError, match="tile must be at least 4, got 3"):
        plan_axis(100, 3, 0, align=4)
    with pytest.raises(AMDRestoreError, match="halo must not be negative"):
        plan_axis(100, 8, -1)


@pytest.mark.parametrize(("tile", "halo", "blend"), [(1, 4, 4), (2, 8, 3), (10, 8, 8), (10, 8, 0), (99, 4, 2)])
@pytest.mark.parametrize("scale", [1, 4])
def test_weights_are_a_partition_of_unity(tile: int, halo: int, blend: int, scale: int) -> None:
    length = 37
    spans = plan_axis(length, tile, halo)
    total = torch.zeros(length * scale)
    for span, weight in zip(spans, blend_weights(spans, blend, scale), strict=True):
        assert weight.shape == ((span.outer_stop - span.outer_start) * scale,)
        assert weight.min() >= 0
        total[span.outer_start * scale : span.outer_stop * scale] += torch.from_numpy(weight)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)


def test_weights_of_a_long_axis_take_little_memory() -> None:
    spans = plan_axis(100_000, 100, 16)
    weights = blend_weights(spans, 8, 4)
    stored = sum((weight if weight.base is None else weight.base).nbytes for weight in weights)
    assert stored == sum(4 * 4 * (span.outer_stop - span.outer_start) for span in spans)


def test_blend_width() -> None:
    assert blend_width(16, 40) == 8
    assert blend_width(40, 40) == 0
    assert blend_width(16, None) == 8


@pytest.mark.parametrize(("tile", "halo", "blend"), [(6, 4, 2), (1, 4, 4), (6, 4, 0), (40, 4, 2), (3, 7, 5)])
@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray])
def test_assembly_puts_every_pixel_in_its_place(
    tile: int, halo: int, blend: int, kind: Callable[[np.ndarray[Any, Any]], Any]
) -> None:
    """Rows may be put together as tensors or as arrays, whichever the tiles are."""
    lq = torch.rand(2, 3, 23, 31)
    seen: list[tuple[int, int]] = []

    def restore(top: int, bottom: int, left: int, right: int) -> Tensor:
        return F.interpolate(lq[:, :, top:bottom, left:right], scale_factor=3)

    rows, columns = plan_axis(23, tile, halo), plan_axis(31, 10, halo)
    rows_like = kind(np.empty(0, np.float32))
    found = list(restore_bands(restore, 2, 3, rows, columns, blend, rows_like, lambda *x: seen.append(x)))
    assert {type(band) for band in found} == {type(rows_like)}
    bands = [torch.as_tensor(band) for band in found]
    assert torch.allclose(torch.cat(bands, dim=2), F.interpolate(lq, scale_factor=3), atol=1e-6)
    assert seen == [(i, 4 * len(rows)) for i in range(1, 4 * len(rows) + 1)]
    if tile == 1:  # the first rows come long before the last tile is done
        assert len(bands) > 10


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> RestorationPipeline:
    path = save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")
    return RestorationPipeline.from_pretrained(path, "cpu", torch.float32)


@pytest.mark.parametrize("num_steps", [1, 2, 4])
@pytest.mark.parametrize("tile", [1, 8, 13, 40])
def test_tiled_equals_untiled_when_the_halo_covers_the_reach(
    pipeline: RestorationPipeline, num_steps: int, tile: int
) -> None:
    lq = torch.rand(1, 3, 37 if tile > 1 else 9, 50 if tile > 1 else 11)
    reach = pipeline.reach(num_steps)
    assert reach == 4 * num_steps
    options = {"num_steps": num_steps, "seed": 3}
    whole = pipeline(lq, tile=0, **options)  # type: ignore[arg-type]
    tiled = pipeline(lq, tile=tile, halo=reach, **options)  # type: ignore[arg-type]
    assert torch.allclose(tiled, whole, atol=1e-5)
    # The test can fail: without a halo the tiles do see their borders.
    if tile < 40:
        assert (pipeline(lq, tile=tile, halo=0, **options) - whole).abs().max() > 1e-2  # type: ignore[arg-type]


def test_default_halo_is_enough_for_a_deep_network(tmp_path: Path) -> None:
    network = {"type": "FlatDenoiser", "num_feat": 8, "num_block": 12}
    deep = RestorationPipeline.from_pretrained(
        save_tiny(tmp_path / "deep.safetensors", network=network), "cpu", torch.float32
    )
    reach = deep.reach(1)
    assert reach is not None and reach > DEFAULT_HALO
    lq = torch.rand(1, 3, 70, 64)
    assert (deep(lq, tile=24) - deep(lq, tile=0)).abs().max() <= 1 / 255


def test_patches_larger_than_the_scale(tmp_path: Path) -> None:
    network = {"type": "FlatDenoiser", "num_feat": 8, "num_block": 1, "in_channels": 48, "cond_channels": 12}
    codec = {"type": "residual", "scale": 2, "patch": 4, "std": 0.07}
    path = save_tiny(tmp_path / "x2.safetensors", network=network, codec=codec, scale=2)
    x2 = RestorationPipeline.from_pretrained(path, "cpu", torch.float32)
    lq = torch.rand(1, 3, 33, 41)
    whole = x2(lq, tile=0)
    assert whole.shape == (1, 3, 66, 82)
    assert x2.reach(1) == 8
    assert torch.allclose(x2(lq, tile=11, halo=8), whole, atol=1e-5)


def test_large_images_are_tiled_unless_forbidden(
    pipeline: RestorationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amd_restore.inference.image.PROBE_SIDE", 8)
    calls: list[int] = []
    pipeline(torch.rand(1, 3, 8, 1100), progress=lambda _, total: calls.append(total))
    assert calls == [3, 3, 3]
    calls.clear()
    pipeline(torch.rand(1, 3, 8, 1100), tile=0, progress=lambda _, total: calls.append(total))
    assert calls == [1]


@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_default_halo_of_the_released_student_hides_the_tiles(num_steps: int) -> None:
    """Largest difference to the untiled picture, everywhere."""
    released = RestorationPipeline.from_pretrained("x4-classical", "cpu", torch.float32)
    lq = torch.from_numpy(np.asarray(Image.open(PHOTOGRAPH).convert("RGB"))[40:80, 40:96].copy())
    lq = lq.permute(2, 0, 1)[None] / 255
    assert released.halo(num_steps) == DEFAULT_HALO
    whole = released(lq, num_steps=num_steps, tile=0)
    difference = (released(lq, num_steps=num_steps, tile=28) - whole).abs().max()
    assert 0 < difference < 0.2 / 255  # a fifth of what is allowed
    if num_steps == 1:  # the test can fail
        assert (released(lq, num_steps=num_steps, tile=28, halo=3) - whole).abs().max() > 1 / 255


@pytest.mark.parametrize("direction", [(1.0, 0.0), (0.6, 0.8)])
def test_no_seams_in_flat_gradients(direction: tuple[float, float]) -> None:
    """Across the borders of tiles the picture bends no more than elsewhere (0.985 times as much was measured)."""
    released = RestorationPipeline.from_pretrained("x4-classical", "cpu", torch.float32)
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 48), indexing="ij")
    lq = (0.2 + 0.4 * (direction[0] * y + direction[1] * x)).expand(1, 3, -1, -1)

    def bend_at_borders(sr: Tensor, axis: int) -> float:
        """Root mean square of second differences along ``axis``: at the borders of tiles, relative to elsewhere."""
        bend = sr.diff(n=2, dim=axis).square().mean(dim=(0, 1, 5 - axis)).sqrt()
        border = torch.zeros(sr.shape[axis], dtype=torch.bool)
        for edge in range(64, sr.shape[axis], 64):
            border[edge - 2 : edge + 2] = True
        border = border[1:-1]
        return float(bend[border].mean() / bend[~border].mean())

    tiled = released(lq, tile=16)
    stepped = tiled.clone()
    stepped[:, :, 64:] += 8 / 255
    stepped[:, :, :, 64:] += 8 / 255
    for axis in (2, 3):
        assert bend_at_borders(tiled, axis) < 1.05
        assert bend_at_borders(stepped, axis) > 1.15  # the test can fail: it sees a step of 8 in the texture


class Blur:
    """A post-process that looks two lq pixels far, and knows where it is."""

    halo = 2

    def __call__(self, sr: Tensor, lq: Tensor, top: int = 0, left: int = 0) -> Tensor:
        assert sr.shape[2] == 4 * lq.shape[2] and sr.shape[3] == 4 * lq.shape[3]
        blurred = F.avg_pool2d(sr, 9, stride=1, padding=4, count_include_pad=False)
        rows = torch.arange(top * 4, top * 4 + sr.shape[2]).view(1, 1, -1, 1)
        return blurred * (1 - rows / 1000)


def test_what_comes_after_the_network_is_tiled_with_its_halo(pipeline: RestorationPipeline) -> None:
    lq = torch.rand(1, 3, 37, 50)
    whole = pipeline(lq, tile=0, post=Blur())
    assert torch.allclose(whole, Blur()(pipeline(lq, tile=0), lq), atol=5e-2)  # not clamped in between
    assert not torch.allclose(whole, pipeline(lq, tile=0), atol=1e-1)
    assert torch.allclose(pipeline(lq, tile=9, post=Blur()), whole, atol=1e-5)
