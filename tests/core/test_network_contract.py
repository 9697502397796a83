"""archs/base.py: what a network declares, what it gets without, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_model import randomised, tiny_header
from torch import Tensor, nn
from torch.nn import functional as F

from amd_restore.archs.base import RestorationNetwork, checked_network
from amd_restore.archs.flat_arch import FlatDenoiser
from amd_restore.errors import AMDRestoreError
from amd_restore.models.latent import bases, rebuild_options
from amd_restore.models.persistence import load_weights
from amd_restore.pipeline import RestorationPipeline
from amd_restore.registry import ARCH_REGISTRY
from amd_restore.weights import build_network, save_checkpoint


class Coarse(RestorationNetwork):
    """A grid of half the size inside, and what it says about that."""

    radius, multiple = 5, 2

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(51, 8, 2, stride=2)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.Conv2d(8, 4 * 48, 1)

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None, keep: Tensor | None = None) -> Tensor:
        assert cond is not None
        height, width = x_t.shape[2:]
        hidden = F.pad(torch.cat([x_t, cond], dim=1), (0, width % 2, 0, height % 2), mode="replicate")
        hidden = self.up(self.middle(torch.relu(self.down(hidden))))
        return F.pixel_shuffle(hidden, 2)[:, :, :height, :width]


class Undeclared(Coarse):
    multiple = 1


class Pooled(RestorationNetwork):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2)


class Unshuffled(RestorationNetwork):
    def __init__(self) -> None:
        super().__init__()
        self.fold = nn.PixelUnshuffle(2)


def test_a_strided_network_is_tiled_on_its_own_grid() -> None:
    pipeline = RestorationPipeline(tiny_header(), randomised(Coarse), "cpu", "float32")
    lq = torch.rand(1, 3, 37, 45)
    assert pipeline.reach(1) == 5
    whole = pipeline(lq, tile=0)
    torch.testing.assert_close(pipeline(lq, tile=13, halo=6), whole, atol=1e-5, rtol=0)
    pipeline.restorer.net.multiple = 1
    assert (pipeline(lq, tile=13, halo=6) - whole).abs().max() > 1e-3


@pytest.mark.parametrize("cls", [Undeclared, Pooled, Unshuffled])
def test_strides_without_a_declared_multiple_are_refused(cls: type[nn.Module]) -> None:
    with pytest.raises(AMDRestoreError, match=rf"{cls.__name__}: layer \w+ makes the grid coarser, but multiple is 1"):
        RestorationPipeline(tiny_header(), cls(), "cpu", "float32")


def test_a_network_from_outside_is_refused_in_one_line(tmp_path: Path) -> None:
    ARCH_REGISTRY.register("Foreign")(nn.Identity)
    try:
        with pytest.raises(AMDRestoreError, match="Identity is no RestorationNetwork; inherit from") as caught:
            build_network(tiny_header(network={"type": "Foreign"}))
        assert "\n" not in str(caught.value)
    finally:
        del ARCH_REGISTRY._entries["Foreign"]
    with pytest.raises(AMDRestoreError, match="Identity is no RestorationNetwork"):
        RestorationPipeline(tiny_header(), nn.Identity(), "cpu", "float32")


def test_defaults() -> None:
    net = RestorationNetwork()
    assert checked_network(net) is net
    assert (net.radius, net.multiple, net.base_fingerprint, net.rebuild_options()) == (None, 1, None, None)
    assert net.merged() is net and net.grow({"a": torch.ones(1)}) == {"a": torch.ones(1)}
    with pytest.raises(NotImplementedError):
        net(torch.zeros(1), torch.zeros(1), None)


def test_a_plain_network_is_rebuilt_from_its_option_file() -> None:
    net, options = FlatDenoiser(num_feat=8, num_block=1), {"type": "FlatDenoiser", "num_feat": 8, "num_block": 1}
    codec = RestorationPipeline(tiny_header(), net, "cpu", "float32").codec
    assert rebuild_options(net, options) == options and bases(net, codec) == {}


def test_discriminators_keep_no_contract(tmp_path: Path) -> None:
    discriminator = nn.Conv2d(3, 1, 3)
    torch.save({"params": discriminator.state_dict()}, tmp_path / "net_d.pth")
    load_weights(nn.Conv2d(3, 1, 3), str(tmp_path / "net_d.pth"))
    save_checkpoint(tmp_path / "net_d.safetensors", discriminator.state_dict(), tiny_header())
    with pytest.raises(AMDRestoreError, match="Conv2d is no RestorationNetwork"):
        load_weights(nn.Conv2d(3, 1, 3), str(tmp_path / "net_d.safetensors"))
