"""Conditional U-Net made of diffusers' blocks: for GPUs, and for parity with that ecosystem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from amd_restore import compat
from amd_restore.archs.base import RestorationNetwork
from amd_restore.archs.flat_arch import zero_
from amd_restore.diffusion.denoiser import given_condition
from amd_restore.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class CondUNet(RestorationNetwork):
    """diffusers' ``UNet2DModel`` with the condition concatenated to the state.

    Its group normalisation uses the whole input, so tiles agree with the whole image only approximately.

    Args:
        in_channels: channels of x_t.
        cond_channels: channels of the condition.
        channels: width of each resolution; sides of the latent grid are padded to ``2 ** (len(channels) - 1)``.
        layers_per_block: residual layers at each resolution.
        attention: whether the lowest resolution has self-attention.
    """

    def __init__(
        self,
        in_channels: int = 48,
        cond_channels: int = 3,
        channels: Sequence[int] = (64, 128, 192),
        layers_per_block: int = 2,
        attention: bool = False,
    ) -> None:
        super().__init__()
        compat.patch()  # diffusers imports torchvision where it is installed
        from diffusers import UNet2DModel  # slow to import; only this network needs it

        levels = len(channels)
        self.multiple = 2 ** (levels - 1)
        self.null_cond = nn.Parameter(torch.zeros(1, cond_channels, 1, 1))
        last = "AttnDownBlock2D" if attention else "DownBlock2D"
        first = "AttnUpBlock2D" if attention else "UpBlock2D"
        self.unet = cast(Any, UNet2DModel)(
            in_channels=in_channels + cond_channels,
            out_channels=in_channels,
            block_out_channels=tuple(channels),
            layers_per_block=layers_per_block,
            down_block_types=("DownBlock2D",) * (levels - 1) + (last,),
            up_block_types=(first,) + ("UpBlock2D",) * (levels - 1),
            add_attention=attention,
            norm_num_groups=min(32, channels[0]),
        )
        zero_(self.unet.conv_out)

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None, keep: Tensor | None = None) -> Tensor:
        height, width = x_t.shape[2:]
        cond = given_condition(cond, self.null_cond, keep, x_t)
        hidden = torch.cat([x_t, cond], dim=1)
        pad_h, pad_w = -height % self.multiple, -width % self.multiple
        hidden = nn.functional.pad(hidden, (0, pad_w, 0, pad_h), mode="replicate")
        # diffusers' time embedding expects the 0..1000 range that its schedulers use.
        output: Tensor = self.unet(hidden, t * 1000.0).sample
        return output[:, :, :height, :width]
