"""From a window of an image to its restored pixels: noise by position, recipe, fidelity, orientations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from amd_restore.arrays import Array, channels_first, host, inference_mode, lerp, zeros
from amd_restore.backends.runtime import GraphNetwork
from amd_restore.diffusion import Codec, Draw, field_noise, host_noise, restore_latent
from amd_restore.inference import memory
from amd_restore.inference.call_options import WindowOptions
from amd_restore.inference.fidelity import tempered
from amd_restore.inference.tta import restore_oriented
from amd_restore.weights import Header, build_denoiser, build_header_codec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from amd_restore.archs.base import RestorationNetwork

# Latent cells that a tile takes in beyond its borders, where the network's reach is not less: with fewer, the released
# x4-real differs from the untiled result by more than a grey level.
DEFAULT_HALO = 24
HALO_OF_WHOLE = 16  # pixels of lq, for networks in which every pixel depends on the whole image
PROBE_SIDE = 160  # Side of the window with which memory is measured; smaller images are not tiled.


class WindowRestorer:
    """A network, its process and its codec.

    Args:
        header: of the weights.
        net: the network with its weights: a module of torch, or a graph, which computes on NumPy arrays.
        codec: of the header; None builds it.
        device: where torch computes; None for a graph.
        dtype: arithmetic of a network of torch; None for a graph.
        mean: loads the restorer of ``header.mean``.

    Raises:
        AMDRestoreError: as :func:`~amd_restore.archs.base.checked_network`.
    """

    def __init__(
        self,
        header: Header,
        net: nn.Module | GraphNetwork,
        codec: Codec | None,
        device: torch.device | None,
        dtype: torch.dtype | None,
        mean: Callable[[], WindowRestorer],
    ) -> None:
        self.header, self.device, self.mean = header, device, mean
        self.codec = codec or build_header_codec(header)
        self.net: RestorationNetwork | GraphNetwork
        if isinstance(net, GraphNetwork):
            self.net = net
        else:
            assert device is not None
            self.codec = self.codec.to(device)
            self.net = _on_device(net, device)
        self.denoiser = build_denoiser(header, self.net, dtype)
        runtime = memory.GRAPH_RUNTIME if device is None else memory.RUNTIME
        self.resident = max(memory.process_memory() + memory.KEPT, runtime)
        self._probed: float | None = None

    def reach(self, num_steps: int) -> int | None:
        """How far, in lq pixels, a result can depend on its surroundings; None when on the whole image.

        With a halo of at least this, tiled and untiled results are the same but for rounding.
        """
        return None if self.net.radius is None else self.net.radius * num_steps * self.codec.lq_patch

    def halo(self, num_steps: int) -> int:
        """The halo that is taken when none is named, in lq pixels; see ``DEFAULT_HALO``."""
        reach = self.reach(num_steps)
        return HALO_OF_WHOLE if reach is None else min(reach, DEFAULT_HALO * self.codec.lq_patch)

    @property
    def bytes_per_pixel(self) -> float:
        """Memory that a window takes, per lq pixel: known for the flat network, else measured once."""
        if isinstance(self.net, GraphNetwork):
            return memory.flat_cost(self.net.num_feat)
        if self.device is not None:
            from amd_restore.archs.flat_arch import FlatDenoiser

            if isinstance(self.net, FlatDenoiser):
                return memory.flat_cost(self.net.conv_in.out_channels, self.denoiser.dtype, self.device)
        if self._probed is None:
            patch, options = np.full((1, 3, PROBE_SIDE, PROBE_SIDE), 0.5, np.float32), WindowOptions(1, (0,))
            self._probed = memory.probed_cost(lambda: self(patch, 0, 0, options), PROBE_SIDE**2, self.device)
        return self._probed

    @inference_mode
    def __call__(self, window: Array, top: int, left: int, options: WindowOptions) -> Array:
        """Restore a window.

        Args:
            window: (B, 3, h, w) in [0, 1], tensor or NumPy array, sides multiples of ``codec.lq_patch``.
            top, left: where it lies in the whole image, in lq pixels.
            options: how; ``seeds`` are B.

        Returns:
            (B, 3, scale h, scale w), not clamped; a tensor on the device, or a NumPy array for a graph.
        """
        window = self._taken(window)
        if not options.fidelity or not self.header.mean:
            sr = self._sample(window, top, left, options)
        else:
            sr = self.mean()(window, top, left, replace(options, num_steps=1, fidelity=1.0, post=None))
            if options.fidelity < 1:
                sr = lerp(self._sample(window, top, left, replace(options, fidelity=0.0)), sr, options.fidelity)
        return sr if options.post is None else options.post(sr, window, top, left)

    def _sample(self, window: Array, top: int, left: int, options: WindowOptions) -> Array:
        """Restore with this network alone, without ``post``."""
        _, channels, height, width = self.codec.latent_shape(window)
        y, x = self.codec.cells(top), self.codec.cells(left)
        recipe = self.header.recipe(options.num_steps)

        def draw(step: int) -> Array:
            if options.fidelity == 1:  # the noise would be multiplied by 0
                return channels_first(zeros((len(window), height, width, channels), window))
            if isinstance(self.net, GraphNetwork):
                return host_noise(options.seeds, channels, y, x, height, width, step, self.net.threads)
            return field_noise(options.seeds, channels, y, x, height, width, step).to(self.device)

        def restore(lq: Array, draw: Draw) -> Array:
            return self.codec.decode(restore_latent(self.denoiser, self.codec, lq, draw, recipe), lq)

        faithful = tempered(draw, options.fidelity)
        if not options.tta:
            return restore(window, faithful)
        # Cells of an autoencoder have no inside that could be turned.
        patch = 1 if self.header.bases.get("codec") else self.codec.patch
        return restore_oriented(restore, window, faithful, patch)

    def _taken(self, window: Array) -> Array:
        """``window`` as what the network computes on."""
        if self.device is None:
            return host(window).astype(np.float32, copy=False)
        import torch

        if isinstance(window, np.ndarray):  # torch warns of arrays that it could not write to
            window = torch.from_numpy(window if window.flags.writeable else window.copy())
        return window.to(self.device)


def _on_device(net: nn.Module, device: torch.device) -> RestorationNetwork:
    import torch

    from amd_restore.archs.base import checked_network

    net = checked_network(net).eval().requires_grad_(False).to(device)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
