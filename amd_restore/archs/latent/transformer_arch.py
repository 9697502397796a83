"""The transformer of Stable Diffusion 3."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from amd_restore.archs.latent.network import LatentNetwork
from amd_restore.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class LatentTransformer(LatentNetwork):
    """diffusers' ``SD3Transformer2DModel``; arguments of :class:`~amd_restore.archs.latent.network.LatentNetwork`."""

    diffusers_class = "SD3Transformer2DModel"
    default_subfolder = "transformer"
    default_targets = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
    )

    def input_layer(self, module: Any) -> Any:
        """The convolution of the patch embedding."""
        return module.pos_embed.proj

    def prompt_widths(self, module: Any) -> tuple[int, int | None]:
        """Of the joint attention, and pooled."""
        return module.config.joint_attention_dim, module.config.pooled_projection_dim

    def multiple_of(self, config: Any) -> int:
        """Whole patches."""
        return int(config.patch_size)

    def call(self, module: Any, x: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None) -> Tensor:
        """Its time is sigma, scaled to run from 0 to T.

        Raises:
            AMDRestoreError: more cells than it has positions.
        """
        most = module.config.pos_embed_max_size * self.multiple
        height, width = x.shape[2:]
        self._check(max(height, width) <= most, f"has positions for {most} cells, not {height} x {width}; use tiles")
        output: Tensor = module(x, tokens, pooled, t * self.num_train_timesteps).sample
        return output
