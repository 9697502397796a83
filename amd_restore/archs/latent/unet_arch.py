"""The U-Net of Stable Diffusion 1, 2 and XL."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amd_restore.archs.latent.network import LatentNetwork
from amd_restore.registry import ARCH_REGISTRY

SIX_SIZES = 6  # Height, width, crop and target size: inputs of the XL model.


@ARCH_REGISTRY.register()
class LatentUNet(LatentNetwork):
    """diffusers' ``UNet2DConditionModel``; arguments of :class:`~amd_restore.archs.latent.network.LatentNetwork`."""

    diffusers_class = "UNet2DConditionModel"
    default_subfolder = "unet"
    # All of OSEDiff's, https://github.com/cswry/OSEDiff.
    default_targets = (
        "to_k",
        "to_q",
        "to_v",
        "to_out.0",
        "conv",
        "conv1",
        "conv2",
        "conv_in",
        "conv_shortcut",
        "conv_out",
        "proj_out",
        "proj_in",
        "ff.net.2",
        "ff.net.0.proj",
    )

    def input_layer(self, module: Any) -> Any:
        """``conv_in``."""
        return module.conv_in

    def prompt_widths(self, module: Any) -> tuple[int, int | None]:
        """Cross attention's; pooled for the XL model."""
        config = module.config
        if config.addition_embed_type is None:
            return config.cross_attention_dim, None
        self._check(config.addition_embed_type == "text_time", f"embeds {config.addition_embed_type}, not known here")
        pooled = config.projection_class_embeddings_input_dim - SIX_SIZES * config.addition_time_embed_dim
        return config.cross_attention_dim, pooled

    def multiple_of(self, config: Any) -> int:
        """Each level but the last halves the sides."""
        return 2 ** (len(config.block_out_channels) - 1)

    def call(self, module: Any, x: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None) -> Tensor:
        """Timesteps run from 0 to T - 1."""
        added = None
        if pooled is not None:
            height, width = (8 * side for side in x.shape[2:])
            sizes = torch.tensor([height, width, 0, 0, height, width], device=x.device, dtype=x.dtype)
            added = {"text_embeds": pooled, "time_ids": sizes.expand(len(x), -1)}
        output: Tensor = module(x, t * (self.num_train_timesteps - 1), tokens, added_cond_kwargs=added).sample
        return output
