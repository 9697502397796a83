"""A denoiser with deeper, coarser grids: for degradations that reach further than a flat network looks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amd_restore.archs.flat_arch import TimeBlock, gained, time_features, zero_
from amd_restore.diffusion.denoiser import given_condition
from amd_restore.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class HourglassDenoiser(nn.Module):
    """Residual blocks at several resolutions, each half of the one above, joined by sums; no normalisation.

    Noise, JPEG blocks and blur of a photograph are coarse compared with its pixels: at a quarter of the cost a block
    of the second grid sees twice as far. As in :class:`~amd_restore.archs.flat_arch.FlatDenoiser` no layer looks at
    global statistics, so tiles whose corners are multiples of ``multiple`` agree exactly with the whole, and
    zero-initialised ends make it start as the identity of its precondition.

    Args:
        in_channels: channels of x_t.
        cond_channels: channels of the condition.
        channels: width of each resolution, finest first.
        num_block: residual blocks of each resolution: as many on the way down as on the way up; at the coarsest once.
        time_feat: size of the time embedding.
        first_gain: as in :class:`~amd_restore.archs.flat_arch.FlatDenoiser`.

    Raises:
        ValueError: ``channels`` and ``num_block`` are not of equal length, or empty.
    """

    def __init__(
        self,
        in_channels: int = 48,
        cond_channels: int = 3,
        channels: Sequence[int] = (64, 96, 160),
        num_block: Sequence[int] = (4, 4, 8),
        time_feat: int = 64,
        first_gain: float = 1.0,
    ) -> None:
        super().__init__()
        if not channels or len(channels) != len(num_block):
            raise ValueError(f"channels {list(channels)} and num_block {list(num_block)} must be of equal length")
        self.first_gain = first_gain
        self.time_feat = time_feat
        self.multiple = 2 ** (len(channels) - 1)
        self.radius = _radius(num_block)
        self.null_cond = nn.Parameter(torch.zeros(1, cond_channels, 1, 1))
        self.time_mlp = nn.Sequential(nn.Linear(time_feat, time_feat), nn.SiLU(), nn.Linear(time_feat, time_feat))
        self.conv_in = nn.Conv2d(in_channels + cond_channels, channels[0], 3, padding=1)
        self.conv_out = nn.Conv2d(channels[0], in_channels, 3, padding=1)

        def blocks(level: int) -> nn.ModuleList:
            return nn.ModuleList(TimeBlock(channels[level], time_feat) for _ in range(num_block[level]))

        above = range(len(channels) - 1)
        self.down = nn.ModuleList(blocks(level) for level in above)
        self.shrink = nn.ModuleList(nn.Conv2d(channels[i], channels[i + 1], 2, stride=2) for i in above)
        self.middle = blocks(len(channels) - 1)
        self.expand = nn.ModuleList(nn.Conv2d(channels[i + 1], 4 * channels[i], 1) for i in above)
        self.up = nn.ModuleList(blocks(level) for level in above)
        self.feature_layer, self.feature_channels = "middle", channels[-1]  # what a GAN head looks at
        if num_block[-1]:
            self.feature_layer = f"middle.{num_block[-1] - 1}"
        zero_(self.conv_out)

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None, keep: Tensor | None = None) -> Tensor:
        """Raw prediction; arguments and result as in :class:`~amd_restore.archs.flat_arch.FlatDenoiser`."""
        height, width = x_t.shape[2:]
        cond = given_condition(cond, self.null_cond, keep, x_t)
        emb = self.time_mlp(time_features(t, self.time_feat))
        hidden = torch.cat([x_t, cond], dim=1)
        hidden = F.pad(hidden, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        hidden = self.conv_in(hidden)
        skips = []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            hidden = _run(blocks, hidden, emb)
            skips.append(hidden)
            hidden = shrink(hidden)
        hidden = _run(self.middle, hidden, emb)
        for level in reversed(range(len(skips))):
            hidden = skips[level] + F.pixel_shuffle(self.expand[level](hidden), 2)
            hidden = _run(self.up[level], hidden, emb)
        return gained(self.conv_out(hidden)[:, :, :height, :width], t, self.first_gain)


def _run(blocks: nn.Module, hidden: Tensor, emb: Tensor) -> Tensor:
    for block in blocks.children():
        hidden = block(hidden, emb)
    return hidden


def _radius(num_block: Sequence[int]) -> int:
    """Cells to each side on which a result can depend: every convolution of grid k reaches ``2 ** k`` of the finest."""
    *above, coarsest = num_block
    reach = 2 + 2 * coarsest * 2 ** len(above)  # 2: the first and the last layer
    reach += sum(2 * 2 * count * 2**level for level, count in enumerate(above))
    return reach + 2 ** len(above) - 1  # where a cell lies within one of the coarsest
