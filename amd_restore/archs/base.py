"""The contract of a network: what training, inference and export require of it, with defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn

from amd_restore.errors import AMDRestoreError

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.PixelUnshuffle)


class RestorationNetwork(nn.Module):
    """Base of all networks: called as ``net(x_t, t, cond, keep)``, with members that say how it may be used.

    Attributes:
        radius: latent cells to each side on which a result depends. None, the default, is the whole input: tiles then
            agree with the whole image only approximately.
        multiple: sides and corners of tiles are multiples of this many latent cells. A network with strides or pooling
            must declare its coarsest grid here, and pad what does not fit itself. :func:`checked_network` refuses
            strided layers beside the default of 1; what ``forward`` resizes without a layer it cannot find.
    """

    radius: int | None = None
    multiple: int = 1

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None, keep: Tensor | None = None) -> Tensor:
        """Raw prediction.

        Args:
            x_t: scaled state (B, C, h, w).
            t: times in [0, 1], (B,).
            cond: condition (B, K, h, w); None is the null condition for all.
            keep: bool (B,), False where the null condition replaces ``cond``; None keeps all.

        Returns:
            (B, C, h, w).
        """
        raise NotImplementedError

    def grow(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a smaller network of this class, for this one. Default: as they are."""
        return dict(state)

    @property
    def base_fingerprint(self) -> str | None:
        """Names frozen weights that this network needs and does not save. Default: None, it is whole."""
        return None

    def merged(self) -> Self:
        """The network as a whole, with those weights. Default: itself."""
        return self

    def rebuild_options(self) -> dict[str, Any] | None:
        """Constructor arguments for a weights file. Default: None, those of the option file."""
        return None


def checked_network(net: nn.Module) -> RestorationNetwork:
    """``net``, if it keeps the contract.

    Raises:
        AMDRestoreError: it is no :class:`RestorationNetwork`, or has strides and does not declare ``multiple``.
    """
    name = type(net).__name__
    if not isinstance(net, RestorationNetwork):
        raise AMDRestoreError(
            f"{name} is no RestorationNetwork; inherit from amd_restore.archs.base.RestorationNetwork and declare "
            "radius and multiple there"
        )
    for layer, module in net.named_modules() if net.multiple == 1 else ():
        if isinstance(module, (nn.Conv2d, *_POOLS)) and _stride(module) > 1:
            raise AMDRestoreError(
                f"{name}: layer {layer} makes the grid coarser, but multiple is 1; "
                "set multiple to the factor between the finest and the coarsest grid"
            )
    return net


def _stride(module: Any) -> int:
    if isinstance(module, nn.PixelUnshuffle):
        return module.downscale_factor
    stride = module.kernel_size if module.stride is None else module.stride
    return max(stride) if isinstance(stride, tuple) else int(stride)
