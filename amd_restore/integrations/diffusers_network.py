"""Networks as diffusers models; ``config.json`` is the header of the weights file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from amd_restore.errors import AMDRestoreError
from amd_restore.weights import Header, build_network


@dataclass
class AMDRestoreNetworkOutput(BaseOutput):
    """``sample``: the raw prediction, (B, C, h, w), float32."""

    sample: Tensor


class AMDRestoreNetwork(ModelMixin, ConfigMixin):  # type: ignore[misc]  # their config_name clash
    """Any network of this package with its header.

    Args:
        header: JSON table of :meth:`Header.to_json <amd_restore.weights.Header.to_json>`.

    Raises:
        AMDRestoreError: the header is not valid, or names an unknown network.
    """

    @register_to_config
    def __init__(self, header: Mapping[str, Any]) -> None:
        super().__init__()
        self.net = build_network(self.header)
        self._tile: int | None = None

    @property
    def header(self) -> Header:
        """Return the header of the weights."""
        return Header.from_json(json.dumps(self.config["header"]))

    def enable_tiling(self, tile: int = 512) -> None:
        """Evaluate large states in windows, with less memory and the same result up to rounding.

        Every window includes a margin of the network's receptive field, so smaller tiles are slower.

        Args:
            tile: side of a window in latent cells.

        Raises:
            AMDRestoreError: the network's receptive field is the whole image, or ``tile`` is below 1.
        """
        if self.net.radius is None:
            raise AMDRestoreError(f"{type(self.net).__name__} depends on the whole image: it cannot be tiled exactly")
        if tile < 1:
            raise AMDRestoreError(f"tile must be at least 1, got {tile}")
        self._tile = tile

    def disable_tiling(self) -> None:
        """Evaluate whole states again."""
        self._tile = None

    def forward(
        self, sample: Tensor, timestep: Tensor | float, condition: Tensor | None, return_dict: bool = True
    ) -> AMDRestoreNetworkOutput | tuple[Tensor]:
        """Return the raw prediction.

        Args:
            sample: scaled state (B, C, h, w), see ``AMDRestoreScheduler.scale_model_input``.
            timestep: times in [0, 1], () or (B,).
            condition: (B, K, h, w); None for the unconditional prediction.
            return_dict: False to return a tuple.
        """
        t = torch.as_tensor(timestep, dtype=torch.float32, device=sample.device).expand(sample.shape[0])
        # The time embedding and the state stay in float32 for weights of any dtype.
        with torch.autocast(sample.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output = self._whole(sample, t, condition) if self._tile is None else self._tiled(sample, t, condition)
        return AMDRestoreNetworkOutput(sample=output) if return_dict else (output,)

    def _whole(self, sample: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        sample = sample.to(memory_format=torch.channels_last)
        output: Tensor = self.net(sample, t, condition)
        return output.float()

    def _tiled(self, sample: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        tile, radius, multiple = self._tile, self.net.radius, self.net.multiple
        assert tile is not None and radius is not None
        # Windows begin at cells of the coarsest grid.
        tile, halo = -(-tile // multiple) * multiple, -(-radius // multiple) * multiple
        height, width = sample.shape[2:]
        out = torch.empty_like(sample, dtype=torch.float32)
        for y in range(0, height, tile):
            for x in range(0, width, tile):
                top, left = max(y - halo, 0), max(x - halo, 0)
                window = (..., slice(top, y + tile + halo), slice(left, x + tile + halo))
                part = self._whole(sample[window], t, None if condition is None else condition[window])
                part = part[..., y - top :, x - left :][..., :tile, :tile]
                out[..., y : y + tile, x : x + tile] = part
        return out
