"""The network of several grids: how far it looks, and that tiles and other runtimes agree with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny_model import HOURGLASS, hourglass_state, save_hourglass, tiny_header
from torch import nn

from amd_restore.archs.hourglass_arch import HourglassDenoiser
from amd_restore.backends import choose_backend, load_network
from amd_restore.backends.calibration import measure_ranges
from amd_restore.checkpoint import build_network
from amd_restore.errors import AMDRestoreError
from amd_restore.pipeline import RestorationPipeline


@pytest.mark.parametrize("num_block", [(1, 1), (2, 0, 1), (1, 1, 0), (0, 2, 1, 1)])
def test_radius_is_exactly_how_far_a_result_looks(num_block: Sequence[int]) -> None:
    net = HourglassDenoiser(2, 1, [4] * len(num_block), num_block, 8)
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.05)  # no two paths cancel
    net.double().time_mlp.float()
    side = 2 * net.radius + 4 * net.multiple
    side -= side % net.multiple
    x_t = torch.zeros(1, 2, 8, side, dtype=torch.float64)
    cond, t = torch.zeros(1, 1, 8, side, dtype=torch.float64), torch.full((1,), 0.5)
    net.time_mlp.register_forward_hook(lambda module, inputs, output: output.double())
    with torch.no_grad():
        plain = net(x_t, t, cond)
        reaches = []
        for offset in range(net.multiple):
            changed = x_t.clone()
            middle = side // 2 + offset
            changed[..., middle] = 1.0
            seen = (net(changed, t, cond) != plain).any(dim=2).any(dim=1).nonzero()[:, -1]
            reaches += [middle - int(seen.min()), int(seen.max()) - middle]
    assert max(reaches) == net.radius


@pytest.mark.parametrize("tile", [8, 13, 24])
def test_tiled_equals_untiled(tmp_path: Path, tile: int) -> None:
    pipe = RestorationPipeline.from_pretrained(save_hourglass(tmp_path / "deep.safetensors"), "cpu", "float32")
    lq = torch.rand(1, 3, 45, 83)
    reach = pipe.reach(1)
    assert reach == 2 + 4 + 8 + 8 + 3
    whole = pipe(lq, tile=0, seed=3)
    assert torch.allclose(pipe(lq, tile=tile, halo=reach, seed=3), whole, atol=1e-5)
    assert (pipe(lq, tile=tile, halo=0, seed=3) - whole).abs().max() > 1e-2  # the test can fail


def test_tiles_of_diffusers_agree_too(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from amd_restore.integrations.diffusers_pipeline import AMDRestorePipeline

    network = AMDRestorePipeline.from_amd_restore(save_hourglass(tmp_path / "deep.safetensors")).network
    sample, cond = torch.randn(1, 48, 45, 83), torch.randn(1, 3, 45, 83)
    whole = network(sample, 1.0, cond).sample
    network.enable_tiling(10)
    assert torch.allclose(network(sample, 1.0, cond).sample, whole, atol=1e-5)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("batch", "height", "width", "first_gain"), [(1, 8, 8, 1.0), (2, 9, 18, 1.5), (3, 1, 2, 1.0), (1, 11, 7, 1.0)]
)
def test_other_runtimes_agree(runtime: str, batch: int, height: int, width: int, first_gain: float) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip({"onnx": "onnxruntime"}.get(runtime, runtime))
    header, state = tiny_header(network={**HOURGLASS, "first_gain": first_gain}), hourglass_state()
    assert choose_backend(header, runtime, "fp32") == (runtime, "fp32")
    plain, other = build_network(header, state), load_network(header, state, runtime, "fp32", threads=1)
    x_t, cond, t = torch.randn(batch, 48, height, width), torch.randn(batch, 3, height, width), torch.ones(batch)
    with torch.no_grad():
        torch.testing.assert_close(other(x_t, t, cond), plain(x_t, t, cond), rtol=1e-4, atol=1e-4)
    assert (other.radius, other.multiple) == (plain.radius, plain.multiple)


def test_every_inner_convolution_is_calibrated() -> None:
    ranges = measure_ranges(tiny_header(network=HOURGLASS), hourglass_state(), [torch.rand(1, 3, 16, 16)])
    layers = {place.split(":")[0] for place in ranges}
    assert layers == {
        f"{name}.{conv}"
        for name in ("down.0.0", "down.1.0", "middle.0", "up.0.0", "up.1.0")
        for conv in ("conv1", "conv2")
    } | {"shrink.0", "shrink.1", "expand.0", "expand.1"}


def test_a_gan_head_finds_its_features() -> None:
    net = HourglassDenoiser(12, 3, (8, 12), (1, 2))
    assert isinstance(net.get_submodule(net.feature_layer), nn.Module)
    assert net.feature_channels == 12


@pytest.mark.parametrize(("channels", "num_block"), [((8,), (1, 1)), ((), ())])
def test_unequal_lists_are_refused(channels: Sequence[int], num_block: Sequence[int]) -> None:
    with pytest.raises(ValueError, match="of equal length"):
        HourglassDenoiser(channels=channels, num_block=num_block)
    network = {"type": "HourglassDenoiser", "channels": list(channels), "num_block": list(num_block)}
    with pytest.raises(AMDRestoreError, match="equal length"):
        build_network(tiny_header(network=network), {})
