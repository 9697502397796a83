"""A deeper or wider network that starts as a smaller one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from amd_restore.archs.flat_arch import FlatDenoiser
from amd_restore.errors import AMDRestoreError
from amd_restore.models.persistence import load_weights, torch_save


def network(num_block: int, num_feat: int = 8) -> FlatDenoiser:
    return FlatDenoiser(12, 3, num_feat, num_block, 8)


def output(net: FlatDenoiser) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x_t, cond, t = (torch.rand(shape, generator=generator) for shape in ((2, 12, 5, 6), (2, 3, 5, 6), (2,)))
    with torch.no_grad():
        return net(x_t, t, cond)


@pytest.fixture
def trained() -> FlatDenoiser:
    net = network(4)
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return net


@pytest.mark.parametrize(("blocks", "width"), [(4, 8), (5, 8), (7, 8), (8, 8), (4, 12), (7, 12)])
def test_the_grown_network_starts_as_the_small_one(trained: FlatDenoiser, blocks: int, width: int) -> None:
    large = network(blocks, width)
    large.load_state_dict(large.grow(trained.state_dict()))
    assert output(trained).abs().max() > 0.01
    torch.testing.assert_close(output(large), output(trained), rtol=0, atol=0 if width == 8 else 1e-6)


def test_a_network_of_a_smaller_factor_starts_with_half_of_the_prediction(trained: FlatDenoiser) -> None:
    generator = torch.Generator().manual_seed(1)
    x_t, t = torch.rand(2, 12, 5, 6, generator=generator), torch.rand(2, generator=generator)
    fine = torch.rand(2, 3, 10, 12, generator=generator)
    finer = FlatDenoiser(12, 12, 12, 7, 8)  # of twice the pixels a side in a cell, and wider and deeper besides
    finer.load_state_dict(finer.grow(trained.state_dict()))
    keep = torch.tensor([True, False])
    with torch.no_grad():
        half = finer(x_t, t, F.pixel_unshuffle(fine, 2), keep)
        whole = trained(x_t, t, F.avg_pool2d(fine, 2), keep)
    torch.testing.assert_close(half, whole / 2, rtol=0, atol=1e-6)


def test_every_old_block_stands_in_the_grown_network(trained: FlatDenoiser) -> None:
    grown = network(6).grow(trained.state_dict())
    for weight in (value for key, value in trained.state_dict().items() if key.endswith("conv2.weight")):
        assert sum(torch.equal(grown[f"blocks.{i}.conv2.weight"], weight) for i in range(6)) == 1


def test_new_blocks_learn(trained: FlatDenoiser) -> None:
    large = network(8)
    large.load_state_dict(large.grow(trained.state_dict()))
    large(torch.rand(1, 12, 5, 5), torch.rand(1), torch.rand(1, 3, 5, 5)).sum().backward()
    for name, parameter in large.named_parameters():
        if name.endswith("conv2.weight"):
            assert parameter.grad is not None and parameter.grad.abs().max() > 0


def test_weights_files_grow_only_where_asked(trained: FlatDenoiser, tmp_path: Path) -> None:
    file = tmp_path / "net_g_4.pth"
    torch_save({"params": trained.state_dict()}, file)
    with pytest.raises(AMDRestoreError, match="weights of another network"):
        load_weights(network(6), file)
    large = network(6)
    load_weights(large, file, grow=True)
    torch.testing.assert_close(output(large), output(trained), rtol=0, atol=0)


def test_new_channels_learn(trained: FlatDenoiser) -> None:
    """The first step reaches the layers that read the new channels, the second those that write them."""
    large = network(4, 12)
    large.load_state_dict(large.grow(trained.state_dict()))
    generator = torch.Generator().manual_seed(2)
    x_t, cond, t = (torch.rand(shape, generator=generator) for shape in ((1, 12, 5, 5), (1, 3, 5, 5), (1,)))
    for _ in range(2):
        large.zero_grad()
        large(x_t, t, cond).square().sum().backward()
        with torch.no_grad():
            for parameter in large.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=1e-3)
    assert large.conv_out.weight[:, 8:].abs().max() > 0
    assert large.conv_in.weight.grad is not None and large.conv_in.weight.grad[8:].abs().max() > 0


def test_a_smaller_network_is_refused(trained: FlatDenoiser, tmp_path: Path) -> None:
    file = tmp_path / "net_g_4.pth"
    torch_save({"params": trained.state_dict()}, file)
    for other in (network(3), network(6, num_feat=4)):
        with pytest.raises(AMDRestoreError, match="weights of another network"):
            load_weights(other, file, grow=True)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "net_g_4.pth"
    torch_save({"params": {"conv_in.weight": torch.ones(8, 12, 3, 3), "norm.weight": torch.ones(8)}}, file)
    with pytest.raises(AMDRestoreError, match="weights of another network"):
        load_weights(network(4), file, grow=True)
