"""The public inference object: small images in, large images out.

pipeline = RestorationPipeline.from_pretrained()          # the weights in the package
sr = pipeline(lq, num_steps=1, seed=0)                    # (B, 3, H, W) in [0, 1] -> (B, 3, 4H, 4W) in [0, 1]
large = pipeline.restore_image(small)                     # numpy arrays, gray, alpha and 16 bits included
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from amd_restore.archs.base import checked_network
from amd_restore.archs.flat_arch import FlatDenoiser
from amd_restore.checkpoint import (
    DEFAULT_MODEL,
    Header,
    build_denoiser,
    build_header_codec,
    build_network,
    load_checkpoint,
    resolve_weights,
)
from amd_restore.diffusion import Codec, Draw, cell_side, cell_sized, field_noise, restore_latent
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture, is_streamed, write_image
from amd_restore.inference import memory
from amd_restore.inference.call_options import CallOptions, check_image, memory_errors
from amd_restore.inference.fidelity import tempered
from amd_restore.inference.planes import Planes
from amd_restore.inference.tiling import blend_width, collect_bands, finish_bands, plan_axis, restore_bands, window_of
from amd_restore.inference.tta import restore_oriented
from amd_restore.precision import resolve_device, resolve_dtype

if TYPE_CHECKING:
    from amd_restore.inference.post import PostProcess

# lq pixels that a tile sees beyond its borders; fewer where the network sees less far. Measured with the released x4
# student (reach 34 per step) on 31 photographs, largest difference to the untiled result at 6, 8, 12 and 16 pixels from
# a cut, in units of 1/255: 1.0, .34, .002, .0001 for one step in float32, and the same for two: more steps do not look
# further, for each step is told the result of the last one only through the noise. So 8 would do. In bfloat16 rounding
# alone makes .9 at any distance below the reach.
DEFAULT_HALO = 16
PROBE_SIDE = 160  # of the window with which memory is measured; smaller images are not tiled
CPU = torch.device("cpu")


class RestorationPipeline:
    """A network, its process and its codec, behind one call.

    Args:
        header: of the weights file.
        net: network with its weights, see :func:`~amd_restore.checkpoint.build_network`.
        device: ``auto`` (CUDA, else Apple's MPS, else the CPU), or a name that torch knows.
        dtype: arithmetic of the network, float32 or bfloat16; ``auto`` is bfloat16 where the hardware has it.
        codec: of the header; None builds it. One whose encoder was trained needs the weights of that.

    Raises:
        AMDRestoreError: the device is not there, or the dtype is none of these.
    """

    def __init__(
        self,
        header: Header,
        net: nn.Module,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        codec: Codec | None = None,
    ) -> None:
        self.header = header
        self.device = resolve_device(device)
        self.codec = (codec or build_header_codec(header)).to(self.device)
        self.net = checked_network(net).eval().requires_grad_(False).to(self.device)
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.denoiser = build_denoiser(header, self.net, resolve_dtype(dtype, self.device))
        self._resident = max(memory.process_memory() + memory.KEPT, memory.RUNTIME)
        self._probed: tuple[nn.Module, float] | None = None
        self._loading: dict[str, Any] = {"device": self.device, "dtype": self.dtype}  # of header.mean

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = DEFAULT_MODEL,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        backend: str = "torch",
    ) -> RestorationPipeline:
        """Load weights: a released name, a ``.safetensors`` file, or a folder with exactly one.

        Args:
            name_or_path: of the weights.
            device: see the class.
            dtype: see the class; other backends than torch also know ``int8``.
            backend: what computes the network, see :func:`amd_restore.backends.choose_backend`.

        Raises:
            AMDRestoreError: no such weights, a damaged file, or a device, dtype or backend that is not there.
        """
        header, state_dict = load_checkpoint(resolve_weights(name_or_path))
        codec = build_header_codec(header, state_dict)
        if backend == "torch" and dtype != "int8":
            return cls(header, build_network(header, state_dict), device, dtype, codec)
        from amd_restore.backends import choose_backend, load_network

        found = resolve_device(device)
        backend, arithmetic = choose_backend(header, backend, dtype, found)
        net = load_network(header, state_dict, backend, arithmetic, device=found)
        # Other backends take and give float32, whatever they compute in.
        pipeline = cls(header, net, found, arithmetic if backend == "torch" else "fp32", codec)
        pipeline._loading |= {"backend": backend, "dtype": "auto" if arithmetic == "int8" else arithmetic}
        return pipeline

    @functools.cached_property
    def mean(self) -> RestorationPipeline:
        """The pipeline of ``header.mean``, loaded when a fidelity is first asked for.

        Raises:
            AMDRestoreError: there are no such weights, or they are of another scale.
        """
        pipeline = self.from_pretrained(self.header.mean, **self._loading)
        if pipeline.scale != self.scale:
            raise AMDRestoreError(f"{self.header.name}: its mean {self.header.mean} is not of scale {self.scale}")
        return pipeline

    @property
    def dtype(self) -> torch.dtype:
        """Arithmetic of the network."""
        return self.denoiser.dtype

    @property
    def scale(self) -> int:
        """Output pixels per input pixel, along each axis."""
        return self.header.scale

    def reach(self, num_steps: int) -> int | None:
        """How far, in lq pixels, a result can depend on its surroundings; None when on the whole image.

        With a halo of at least this, tiled and untiled results are the same but for rounding.
        """
        radius = self.net.radius
        return None if radius is None else radius * num_steps * self.codec.lq_patch

    def halo(self, num_steps: int) -> int:
        """The halo that is taken when none is named, in lq pixels; see ``DEFAULT_HALO``."""
        reach = self.reach(num_steps)
        return DEFAULT_HALO if reach is None else min(reach, DEFAULT_HALO)

    @torch.no_grad()  # what comes out is an ordinary tensor; inside, inference_mode
    def __call__(
        self,
        lq: Tensor,
        *,
        num_steps: int | None = None,
        seed: int | Sequence[int] = 0,
        tile: int | None = None,
        halo: int | None = None,
        max_memory: float | None = None,
        fidelity: float = 0.0,
        tta: bool = False,
        post: PostProcess | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Restore a batch of images.

        Sides may have any size from 1; they are padded inside by repeating the border and cropped back. Image
        i of the batch gets the noise of ``seed + i``, so it comes out as if it had been restored alone with
        that seed. The noise depends on seed and position only, neither on the tiles nor on the device.

        Args:
            lq: (B, 3, H, W), RGB, floating, in [0, 1], on any device.
            num_steps: network evaluations; None takes the model's default.
            seed: names the noise; a sequence gives each image of the batch its own.
            tile: largest side of a tile in lq pixels, its halo not counted; 0 never tiles; None tiles what is
                larger than 512 pixels, and in smaller tiles where ``max_memory`` asks for it.
            halo: lq pixels that a tile sees beyond its borders; None is enough for tiles that do not show.
            max_memory: bytes that the process may take, on a GPU those of the GPU; None is half of what is free.
                Sets the tiles when ``tile`` is None. Other tiles round differently: for the same bytes on
                machines short of memory, name one of the two.
            fidelity: from 0, the sample with all its detail, to 1, as close to the truth on average as it gets; see
                :mod:`amd_restore.inference.fidelity`.
            tta: mean over the eight flips and rotations, at eight times the cost.
            post: changes every tile before it is blended with its neighbours.
            progress: called as ``progress(done, total)`` after every tile.

        Returns:
            (B, 3, scale H, scale W), float32 in [0, 1], on the device of ``lq``.

        Raises:
            AMDRestoreError: an argument out of its range, too little memory, or a result that is not finite.
        """
        check_image(lq)
        count, _, height, width = lq.shape
        padded = cell_sized(lq.float(), self.codec.lq_patch)
        options = CallOptions(num_steps, seed, tile, halo, max_memory, fidelity, tta, post, progress)
        kept = 12 * count * height * width * self.scale**2
        bands = self._bands(window_of(padded), count, height, width, options, kept, lq.device)
        with memory_errors():
            return collect_bands(bands, count, height * self.scale)

    def restore_image(self, image: np.ndarray[Any, Any], **options: Any) -> np.ndarray[Any, Any]:
        """Restore a numpy image; what goes in comes out: gray stays gray, alpha alpha, 16 bits 16 bits.

        Gray is restored as RGB and its luma returned. Alpha is enlarged by bicubic interpolation; fully
        transparent pixels first take the colour of their visible surroundings, so that nothing hidden bleeds
        into the edge.

        Args:
            image: (H, W) or (H, W, C) in RGB order, C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha;
                uint8, uint16, or floating in [0, 1].
            options: those of :meth:`__call__`.

        Returns:
            (scale H, scale W) or (scale H, scale W, C) of the dtype of ``image``.

        Raises:
            AMDRestoreError: another shape or dtype, or as :meth:`__call__`.
        """
        rows, shape = self._image_rows(image, streamed=False, options=options)
        with memory_errors():
            out = np.empty(shape, image.dtype)
        done = 0
        for band in rows:
            out[done : done + len(band)] = band
            done += len(band)
        return out.reshape(*shape[:2], *image.shape[2:])

    def restore_rows(self, image: np.ndarray[Any, Any], **options: Any) -> Iterator[np.ndarray[Any, Any]]:
        """:meth:`restore_image` from top to bottom, a few rows at a time; the output is never whole in memory.

        Arguments are checked, and tiles chosen, before the first rows are asked for.

        Yields:
            (n, scale W, C), of the dtype of ``image``; joined they are the result of :meth:`restore_image`.
        """
        return self._image_rows(image, streamed=True, options=options)[0]

    def restore_to(self, path: str | Path, picture: Picture, *, quality: int | None = None, **options: Any) -> None:
        """Restore ``picture`` into a file, profile and EXIF included; PNG and TIFF are written while rows come.

        The file appears whole or not at all. Other formats need the output in memory.

        Args:
            path: its suffix names the format.
            picture: what to restore.
            quality: for JPEG and other lossy formats, see :func:`~amd_restore.image_io.encode`.
            options: those of :meth:`__call__`.

        Raises:
            AMDRestoreError: as :meth:`restore_image` and :func:`~amd_restore.image_io.write_image`.
        """
        rows, (height, width, channels) = self._image_rows(picture.pixels, is_streamed(path), options)
        # A picture of the right size and no memory: metadata depend on the size.
        blank = np.broadcast_to(np.zeros((), picture.pixels.dtype), (height, width, channels))
        write_image(path, picture.with_pixels(blank), quality, rows)

    def _image_rows(
        self, image: np.ndarray[Any, Any], streamed: bool, options: dict[str, Any]
    ) -> tuple[Iterator[np.ndarray[Any, Any]], tuple[int, int, int]]:
        """Rows of the restored image, and its shape with channels."""
        tile_options = CallOptions(**{"num_steps": None, **options})
        with memory_errors():
            planes = Planes(image, self._padded_side)
        shape = planes.height * self.scale, planes.width * self.scale, planes.channels
        kept = 0 if streamed else math.prod(shape) * image.dtype.itemsize
        kept += planes.colour.nbytes
        bands = self._bands(planes.window, 1, planes.height, planes.width, tile_options, kept, CPU)
        return planes.bands(bands, self.codec.upsample, self.scale), shape

    def _bands(
        self,
        window: Callable[[int, int, int, int], Tensor],
        count: int,
        height: int,
        width: int,
        options: CallOptions,
        kept: int,
        device: torch.device,
    ) -> Iterator[Tensor]:
        """Check the options, plan the tiles and start.

        Args:
            window: called as ``window(top, bottom, left, right)``; lq pixels, (count, 3, h, w) in [0, 1].
            count, height, width: of lq; ``window`` answers up to the padded sizes.
            options: of the caller.
            kept: bytes that stay in memory whatever the tiles.
            device: of the answer.

        Returns:
            Rows of the output from top to bottom, (count, 3, n, scale width) in [0, 1].
        """
        num_steps = self.header.default_steps if options.num_steps is None else options.num_steps
        options.check(num_steps)
        seeds = options.seeds(count)
        own_halo = self.halo(num_steps) if options.halo is None else options.halo
        reaches = [self.reach(num_steps), self.mean.reach(1) if options.fidelity and self.header.mean else 0]
        blend = blend_width(own_halo, None if None in reaches else max(filter(None, reaches), default=0))
        halo = own_halo + (options.post.halo if options.post else 0)
        padded = self._padded_side(height), self._padded_side(width)
        sides = self._tile_sides(count, padded, halo, options, kept)
        align = self.codec.lq_patch * self.net.multiple
        rows, columns = (plan_axis(side, tile, halo, align) for side, tile in zip(padded, sides, strict=True))

        def restore(top: int, bottom: int, left: int, right: int) -> Tensor:
            with memory_errors():
                lq = window(top, bottom, left, right)
                return self._restore_window(lq, top, left, num_steps, seeds, options)

        bands = restore_bands(restore, count, self.scale, rows, columns, blend, options.progress, device)
        return finish_bands(bands, height * self.scale, width * self.scale)

    def _tile_sides(
        self, count: int, size: tuple[int, int], halo: int, options: CallOptions, kept: int
    ) -> tuple[int, int]:
        """Height and width of the tiles."""
        if options.tile is not None:
            return (options.tile, options.tile) if options.tile else size
        if options.max_memory is None and count * size[0] * size[1] <= PROBE_SIDE**2:
            return size  # a few megabytes: not worth looking at
        with memory_errors():
            job = memory.Workload(*size, count, self.scale, halo, self._bytes_per_pixel(), kept)
        sides = memory.plan_tile(job, self.device, options.max_memory, self._resident)
        return min(sides[0], size[0]), min(sides[1], size[1])

    def _bytes_per_pixel(self) -> float:
        """Memory that a window takes, per lq pixel: known for our flat network, else measured once."""
        net = self.denoiser.net
        if isinstance(net, FlatDenoiser):
            return memory.flat_cost(net.conv_in.out_channels, self.dtype, self.device)
        if self._probed is None or self._probed[0] is not net:
            patch = torch.full((1, 3, PROBE_SIDE, PROBE_SIDE), 0.5)
            cost = memory.probed_cost(lambda: self._restore_window(patch, 0, 0, 1, [0]), PROBE_SIDE**2, self.device)
            self._probed = net, cost
        return self._probed[1]

    @torch.inference_mode()
    def _restore_window(
        self, window: Tensor, top: int, left: int, num_steps: int, seeds: list[int], options: CallOptions | None = None
    ) -> Tensor:
        """Restore (B, 3, h, w) that lies at (top, left) of the whole image; not clamped."""
        options = options or CallOptions()
        if options.fidelity and self.header.mean:
            return self._mixed_window(window, top, left, num_steps, seeds, options)
        window = window.to(self.device)
        _, channels, height, width = self.codec.latent_shape(window)
        y, x = self.codec.cells(top), self.codec.cells(left)

        def draw(step: int) -> Tensor:
            if options.fidelity == 1:  # the noise would be multiplied by 0
                return torch.zeros(len(seeds), height, width, channels, device=self.device).permute(0, 3, 1, 2)
            return field_noise(seeds, channels, y, x, height, width, step).to(self.device)

        recipe = self.header.recipe(num_steps)

        def restore(lq: Tensor, draw: Draw) -> Tensor:
            return self.codec.decode(restore_latent(self.denoiser, self.codec, lq, draw, recipe), lq)

        faithful = tempered(draw, options.fidelity)
        if options.tta:
            # Cells of an autoencoder have no inside that could be turned.
            sr = restore_oriented(restore, window, faithful, 1 if self.header.bases.get("codec") else self.codec.patch)
        else:
            sr = restore(window, faithful)
        return sr if options.post is None else options.post(sr, window, top, left)

    def _mixed_window(
        self, window: Tensor, top: int, left: int, num_steps: int, seeds: list[int], options: CallOptions
    ) -> Tensor:
        """Sample and mean, mixed; see :mod:`amd_restore.inference.fidelity`."""
        place = window, top, left
        sr = self.mean._restore_window(*place, 1, seeds, replace(options, fidelity=1.0, post=None))
        if options.fidelity < 1:
            sample = self._restore_window(*place, num_steps, seeds, replace(options, fidelity=0.0, post=None))
            sr = torch.lerp(sample, sr, options.fidelity)
        return sr if options.post is None else options.post(sr, *place)

    def _padded_side(self, side: int) -> int:
        return cell_side(side, self.codec.lq_patch)
