"""One model: small images in, large images out."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amd_restore.arrays import Array, HostArray, floats, no_grad
from amd_restore.backends import choose_backend, default_backend, load_network
from amd_restore.backends.runtime import GraphNetwork
from amd_restore.diffusion import Codec, Denoiser, cell_sized
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture, is_streamed, write_image
from amd_restore.inference.call_options import CallOptions, Seeds, check_image, memory_errors
from amd_restore.inference.image import Source, restore_rows
from amd_restore.inference.place import place_of
from amd_restore.inference.planes import Planes
from amd_restore.inference.post import PostProcess
from amd_restore.inference.tiling import collect_bands, window_of
from amd_restore.inference.window import WindowRestorer
from amd_restore.weights import (
    DEFAULT_MODEL,
    Header,
    build_header_codec,
    load_arrays,
    load_checkpoint,
    read_header,
    resolve_weights,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

_LOADING_MEANS = threading.Lock()  # threads that need one at the same time would each load it


class RestorationPipeline:
    """A network, its process and its codec, behind one call.

    Args:
        header: of the weights file.
        net: network with its weights, see :func:`~amd_restore.weights.build_network`, or a graph, see
            :func:`~amd_restore.backends.load_network`, for which ``device`` and ``dtype`` have no meaning.
        device: ``auto`` (CUDA, else Intel's XPU, else Apple's MPS, else the CPU), or a device name of torch. All but
            the CPU are checked by a small image once in a process: ``auto`` passes over one that is wrong.
        dtype: arithmetic of the network, float32 or bfloat16; ``auto`` is bfloat16 where the hardware has it.
        codec: of the header; None builds it. One whose encoder was trained needs the weights of that.

    Raises:
        AMDRestoreError: the device is not there or computes wrong images, or the dtype is none of these.
    """

    def __init__(
        self,
        header: Header,
        net: nn.Module | GraphNetwork,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        codec: Codec | None = None,
    ) -> None:
        self.header = header
        self._means: dict[str, RestorationPipeline] = {}  # loaded, by name
        self._loading: dict[str, Any] = {}  # arguments that they are loaded with
        if isinstance(net, GraphNetwork):
            self.restorer = WindowRestorer(header, net, codec, None, None, lambda: self.mean.restorer)
        else:
            from amd_restore.inference.check import sound_device
            from amd_restore.precision import resolve_dtype

            found = sound_device(device, dtype)
            arithmetic = resolve_dtype(dtype, found)
            self._loading = {"device": found, "dtype": arithmetic, "backend": "torch"}
            self.restorer = WindowRestorer(header, net, codec, found, arithmetic, lambda: self.mean.restorer)
        self.codec = self.restorer.codec

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = DEFAULT_MODEL,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        backend: str | None = None,
        threads: int | None = None,
    ) -> RestorationPipeline:
        """Load weights: a released name, a ``.safetensors`` file, or a folder with exactly one.

        Args:
            name_or_path: of the weights.
            device: see the class.
            dtype: see the class; other backends than torch also have ``int8``.
            backend: what computes the network, see :func:`amd_restore.backends.choose_backend`; None is torch where it
                is installed, else ``auto``.
            threads: processor threads; those of torch hold for the whole process. None leaves them as they are.

        Raises:
            AMDRestoreError: no such weights, a damaged file, or a device, dtype or backend that is not there.
        """
        path, backend = resolve_weights(name_or_path), backend or default_backend()
        if backend == "torch" and dtype == "int8":
            backend = "auto"
        header, place = read_header(path), place_of(backend, device, dtype)
        backend, arithmetic = choose_backend(header, backend, dtype, place)
        state = load_checkpoint(path)[1] if backend == "torch" else load_arrays(path)[1]
        net = load_network(header, state, backend, arithmetic, threads, place)
        pipeline = cls(header, net, place, arithmetic, build_header_codec(header, state))
        if backend != "torch":
            kept = "auto" if arithmetic == "int8" else arithmetic
            pipeline._loading = {"dtype": kept, "backend": backend, "threads": threads}
        return pipeline

    @property
    def mean(self) -> RestorationPipeline:
        """The pipeline of ``header.mean``, loaded when a fidelity is first used.

        Raises:
            AMDRestoreError: there are no such weights, or they are of another scale.
        """
        if self.header.mean not in self._means:
            _load_mean(self.header, self._means, self._loading)
        return self._means[self.header.mean]

    @property
    def denoiser(self) -> Denoiser:
        """The network as an estimator of the clean latent."""
        return self.restorer.denoiser

    @denoiser.setter
    def denoiser(self, denoiser: Denoiser) -> None:
        self.restorer.denoiser = denoiser

    @property
    def device(self) -> torch.device:
        """Where the network computes; needs torch."""
        import torch

        return self.restorer.device or torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Arithmetic of the network, that of a graph as seen from outside; needs torch."""
        import torch

        return self.denoiser.dtype or torch.float32

    @property
    def scale(self) -> int:
        """Output pixels per input pixel, along each axis."""
        return self.header.scale

    def reach(self, num_steps: int) -> int | None:
        """See :meth:`~amd_restore.inference.window.WindowRestorer.reach`."""
        return self.restorer.reach(num_steps)

    def halo(self, num_steps: int) -> int:
        """See :meth:`~amd_restore.inference.window.WindowRestorer.halo`."""
        return self.restorer.halo(num_steps)

    @no_grad  # what comes out is an ordinary tensor; inside, inference_mode
    def __call__(
        self,
        lq: Array,
        *,
        num_steps: int | None = None,
        seed: Seeds = 0,
        tile: int | None = None,
        halo: int | None = None,
        max_memory: float | None = None,
        fidelity: float = 0.0,
        tta: bool = False,
        post: PostProcess | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Array:
        """Restore a batch of images.

        Sides may have any size from 1; they are padded inside by repeating the border and cropped back. Image
        i of the batch gets the noise of ``seed + i``, so it comes out as if it had been restored alone with
        that seed. The noise depends on seed and position only, neither on the tiles nor on the device.

        Args:
            lq: (B, 3, H, W), RGB, floating, in [0, 1]: a tensor on any device, or a NumPy array.
            num_steps: network evaluations; any number, trained are those of ``header.steps``. None takes the default.
            seed: names the noise, a whole number; a sequence gives each image of the batch its own.
            tile: largest side of a tile in lq pixels, its halo not counted; 0 never tiles; None tiles what is
                larger than 512 pixels, in smaller tiles where ``max_memory`` requires it.
            halo: margin of a tile in lq pixels; None is enough for seams that do not show.
            max_memory: bytes that the process may take, on a GPU those of the GPU; None is half of what is free.
                Sets the tiles when ``tile`` is None; other tiles round differently, so name one for equal bytes.
            fidelity: from 0, the sample with all its detail, to 1, as close to the truth on average as it gets; see
                :mod:`amd_restore.inference.fidelity`.
            tta: mean over the eight flips and rotations, at eight times the cost.
            post: changes every tile before it is blended with its neighbours.
            progress: called as ``progress(done, total)`` after every tile.

        Returns:
            (B, 3, scale H, scale W), float32 in [0, 1], of the kind and on the device of ``lq``.

        Raises:
            AMDRestoreError: an argument out of its range, too little memory, or a result that is black or not finite.
        """
        check_image(lq)
        count, _, height, width = lq.shape
        options = CallOptions(num_steps, seed, tile, halo, max_memory, fidelity, tta, post, progress)
        window = window_of(cell_sized(floats(lq), self.codec.lq_patch))
        kept = 12 * count * height * width * self.scale**2
        bands = restore_rows(self.restorer, Source(window, count, height, width, kept, lq), options)
        with memory_errors():
            return collect_bands(bands, count, height * self.scale)

    def restore_image(self, image: HostArray, **options: Any) -> HostArray:
        """Restore a numpy image; what goes in comes out: gray stays gray, alpha alpha, 16 bits 16 bits.

        Gray is restored as RGB and its luma returned. Alpha is enlarged by bicubic interpolation; fully
        transparent pixels first take the colour of their visible surroundings, so that nothing hidden bleeds
        into the edge.

        Args:
            image: array (H, W) or (H, W, C) in RGB order, C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha;
                uint8, uint16, or floating in [0, 1]. Files and PIL images are read by
                :func:`amd_restore.image_io.read_image` and ``numpy.asarray``.
            options: those of :meth:`__call__`.

        Returns:
            (scale H, scale W) or (scale H, scale W, C) of the dtype of ``image``.

        Raises:
            AMDRestoreError: another type, shape, dtype or range, or as :meth:`__call__`.
        """
        rows, shape = self._image_rows(image, streamed=False, options=options)
        with memory_errors():
            out = np.empty(shape, image.dtype)
        done = 0
        for band in rows:
            out[done : done + len(band)] = band
            done += len(band)
        return out.reshape(*shape[:2], *image.shape[2:])

    def restore_rows(self, image: HostArray, **options: Any) -> Iterator[HostArray]:
        """:meth:`restore_image` from top to bottom, a few rows at a time; the output is never whole in memory.

        Arguments are checked, and tiles chosen, in the call itself, before the first rows.

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
        if not isinstance(picture, Picture) or not isinstance(path, str | os.PathLike):
            raise AMDRestoreError(
                f"restore_to takes a path and a Picture, not {type(path).__name__} and {type(picture).__name__}; "
                "amd_restore.image_io.read_image(file) reads one, Picture(array) makes one"
            )
        rows, (height, width, channels) = self._image_rows(picture.pixels, is_streamed(path), options)
        # A picture of the right size and no memory: metadata depend on the size.
        blank = np.broadcast_to(np.zeros((), picture.pixels.dtype), (height, width, channels))
        write_image(path, picture.with_pixels(blank), quality, rows)

    def _image_rows(
        self, image: HostArray, streamed: bool, options: dict[str, Any]
    ) -> tuple[Iterator[HostArray], tuple[int, int, int]]:
        """Rows of the restored image, and its shape with channels."""
        tile_options = CallOptions(**options)
        with memory_errors():
            planes = Planes(image, self.codec.lq_patch)
        shape = planes.height * self.scale, planes.width * self.scale, planes.channels
        kept = image.nbytes + (0 if streamed else math.prod(shape) * image.dtype.itemsize)
        if not np.may_share_memory(planes.colour, image):  # padded, or filled where it is transparent
            kept += planes.colour.nbytes
        source = Source(planes.window, 1, planes.height, planes.width, kept, planes.colour)
        bands = restore_rows(self.restorer, source, tile_options)
        return planes.bands(bands, self.codec.upsample, self.scale), shape


def _load_mean(header: Header, means: dict[str, RestorationPipeline], loading: dict[str, Any]) -> None:
    """Add the mean of a header to the loaded ones, unless another thread has; see :attr:`RestorationPipeline.mean`."""
    with _LOADING_MEANS:
        if header.mean in means:
            return
        pipeline = RestorationPipeline.from_pretrained(header.mean, **loading)
        if pipeline.scale != header.scale:
            raise AMDRestoreError(f"{header.name}: its mean {header.mean} is not of scale {header.scale}")
        means[header.mean] = pipeline
