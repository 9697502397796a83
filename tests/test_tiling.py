"""Tiles: where they lie, that their weights add up, and that tiled results equal untiled ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_model import save_tiny
from torch import Tensor
from torch.nn import functional as F

from amd_restore.errors import AMDRestoreError
from amd_restore.pipeline import DEFAULT_HALO, RestorationPipeline
from amd_restore.tiling import blend_weights, blend_width, plan_axis, restore_tiled


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
        total[span.outer_start * scale : span.outer_stop * scale] += weight
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)


def test_blend_width() -> None:
    assert blend_width(16, 40) == 8
    assert blend_width(40, 40) == 0
    assert blend_width(16, None) == 8


def test_assembly_puts_every_pixel_in_its_place() -> None:
    lq = torch.rand(2, 3, 23, 31)
    seen: list[tuple[int, int]] = []

    def restore(window: Tensor, top: int, left: int) -> Tensor:
        assert torch.equal(window, lq[:, :, top : top + window.shape[2], left : left + window.shape[3]])
        return F.interpolate(window, scale_factor=3)

    rows, columns = plan_axis(23, 6, 4), plan_axis(31, 10, 4)
    out = restore_tiled(restore, lq, 3, rows, columns, 2, lambda done, total: seen.append((done, total)))
    assert torch.allclose(out, F.interpolate(lq, scale_factor=3), atol=1e-6)
    assert seen == [(i, 16) for i in range(1, 17)]


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
    monkeypatch.setattr("amd_restore.pipeline.AUTO_TILE", 20)
    calls: list[int] = []
    pipeline(torch.rand(1, 3, 8, 45), progress=lambda _, total: calls.append(total))
    assert calls == [3, 3, 3]
    calls.clear()
    pipeline(torch.rand(1, 3, 8, 45), tile=0, progress=lambda _, total: calls.append(total))
    assert calls == [1]
