"""The default denoiser: plain 3x3 convolutions at one resolution."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from amd_restore.archs.base import RestorationNetwork
from amd_restore.diffusion.denoiser import given_condition
from amd_restore.registry import ARCH_REGISTRY


def time_features(t: Tensor, dim: int, max_frequency: float = 200.0) -> Tensor:
    """Sinusoidal features (B, dim) of times (B,) in [0, 1], geometric frequencies from 1 to ``max_frequency``."""
    frequencies = torch.exp(
        torch.linspace(0.0, math.log(max_frequency), dim // 2, dtype=torch.float32, device=t.device)
    )
    angles = t.float()[:, None] * frequencies[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def zero_(layer: nn.Module) -> None:
    """Set all parameters of ``layer`` to zero, so that a residual branch starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def gained(output: Tensor, t: Tensor, first_gain: float) -> Tensor:
    """``output`` (B, C, h, w), times ``first_gain`` in those of the batch whose time ``t`` (B,) is 1."""
    if first_gain == 1.0:
        return output
    one = torch.ones_like(t)
    gain = torch.where(t >= 1.0, one * first_gain, one)
    return output * gain.to(output.dtype)[:, None, None, None]


class TimeBlock(nn.Module):
    """Residual block of two 3x3 convolutions; the time enters as a bias between them."""

    def __init__(self, num_feat: int, time_feat: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.time = nn.Linear(time_feat, num_feat)
        self.act = nn.SiLU(inplace=True)
        zero_(self.conv2)
        zero_(self.time)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        hidden = self.act(self.conv1(x) + self.time(emb)[:, :, None, None])
        return x + self.conv2(hidden)


def _widened(value: Tensor, own: Tensor | None) -> Tensor:
    """``value`` in the first channels of a copy of ``own``, whose old rows read nothing from its new columns."""
    if own is None or own.ndim != value.ndim or any(n < o for n, o in zip(own.shape, value.shape, strict=True)):
        return value
    wide = own.clone()
    rows = len(value)
    wide[:rows] = 0
    wide[(slice(rows), *(slice(side) for side in value.shape[1:]))] = value
    return wide


def _for_finer_inputs(state: Mapping[str, Tensor], cond_channels: int) -> dict[str, Tensor]:
    """Tensors for a condition of more pixels per cell: each has an equal share in what the one pixel was before.

    The enlarged input then has a part of the detail itself, so the network starts with half of what it predicted.
    """
    if not {"null_cond", "conv_in.weight", "conv_out.weight", "conv_out.bias"} <= state.keys():
        return dict(state)  # of another network, which loading refuses
    old = state["null_cond"].shape[1]
    shares = cond_channels // old
    if shares < 2 or cond_channels % old:
        return dict(state)
    image, cond = state["conv_in.weight"].split([state["conv_in.weight"].shape[1] - old, old], dim=1)
    finer = {"conv_in.weight": torch.cat([image, cond.repeat_interleave(shares, dim=1) / shares], dim=1)}
    finer["null_cond"] = state["null_cond"].repeat_interleave(shares, dim=1)
    finer |= {key: state[key] / 2 for key in ("conv_out.weight", "conv_out.bias")}
    return {**state, **finer}


@ARCH_REGISTRY.register()
class FlatDenoiser(RestorationNetwork):
    """Stack of residual blocks at the resolution of the latent grid, without normalisation.

    No layer uses global statistics, so the receptive field is finite and tiles agree exactly with the whole image.
    Zero-initialised ends make it start as the identity of its precondition.

    Args:
        in_channels: channels of x_t.
        cond_channels: channels of the condition.
        num_feat: width.
        num_block: number of residual blocks; the receptive field is ``2 * num_block + 2`` cells to each side.
        time_feat: size of the time embedding.
        first_gain: factor on the output at t = 1, where v is the residual itself. A student that learned from the
            ground truth predicts too little detail there, as any mean does; a little more than 1 restores it.
    """

    def __init__(
        self,
        in_channels: int = 48,
        cond_channels: int = 3,
        num_feat: int = 64,
        num_block: int = 16,
        time_feat: int = 64,
        first_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.first_gain = first_gain
        self.radius = 2 * num_block + 2
        self.time_feat = time_feat
        self.null_cond = nn.Parameter(torch.zeros(1, cond_channels, 1, 1))
        self.time_mlp = nn.Sequential(nn.Linear(time_feat, time_feat), nn.SiLU(), nn.Linear(time_feat, time_feat))
        self.conv_in = nn.Conv2d(in_channels + cond_channels, num_feat, 3, padding=1)
        self.blocks = nn.ModuleList(TimeBlock(num_feat, time_feat) for _ in range(num_block))
        self.conv_out = nn.Conv2d(num_feat, in_channels, 3, padding=1)
        zero_(self.conv_out)

    def grow(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a narrower or shallower network for this one, which then starts as that network, exactly.

        The network may also be one of a larger factor of enlargement, with fewer pixels of the input in a cell; this
        one then starts with half of its prediction for an input of the mean of these pixels.

        The old blocks are spread evenly over this network's; the last layer of a new block is zero, so that it adds
        nothing yet. Old channels come first and read nothing of the new ones (Net2Net, 1511.05641, with zeros in place
        of copies).
        """
        old = 1 + max((int(key.split(".")[1]) for key in state if key.startswith("blocks.")), default=-1)
        new = len(self.blocks)
        own = self.state_dict()
        state = _for_finer_inputs(state, own["null_cond"].shape[1])
        grown = {key: value for key, value in own.items() if key.startswith("blocks.")} if 0 < old < new else {}
        for key, value in state.items():
            if key.startswith("blocks.") and 0 < old < new:
                _, number, rest = key.split(".", 2)
                key = f"blocks.{(int(number) + 1) * new // old - 1}.{rest}"
            grown[key] = _widened(value, own.get(key))
        return grown

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None, keep: Tensor | None = None) -> Tensor:
        cond = given_condition(cond, self.null_cond, keep, x_t)
        emb = self.time_mlp(time_features(t, self.time_feat))
        hidden = self.conv_in(torch.cat([x_t, cond], dim=1))
        for block in self.blocks:
            hidden = block(hidden, emb)
        return gained(self.conv_out(hidden), t, self.first_gain)
