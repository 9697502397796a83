"""Between numpy images of any depth and the RGB windows that the network takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from amd_restore.arrays import Array, HostArray, host
from amd_restore.diffusion import cell_side
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import fill_transparent

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as every converter to gray does it
_ALPHA_MARGIN = 4  # lq pixels; bicubic interpolation reads two.


class Planes:
    """Colour and alpha of an image, kept at the image's own depth; windows become floats when they are cut.

    Args:
        image: as for :meth:`~amd_restore.pipeline.RestorationPipeline.restore_image`.
        lq_patch: of the codec; windows may reach up to :func:`~amd_restore.diffusion.cell_side` of each side, where the
            border is repeated.

    Raises:
        AMDRestoreError: no image by type, shape, dtype or range.
    """

    def __init__(self, image: HostArray, lq_patch: int) -> None:
        _check(image)
        image = image.astype(image.dtype.newbyteorder("="), copy=False)
        planes = np.atleast_3d(image)
        self.dtype = image.dtype
        self.highest = 1.0 if image.dtype.kind == "f" else float(np.iinfo(image.dtype).max)
        self.height, self.width, self.channels = planes.shape
        has_alpha = self.channels in (2, 4)
        colour = planes[..., :-1] if has_alpha else planes
        self.alpha = planes[..., -1:] if has_alpha else None
        if self.alpha is not None and not self.alpha.all():
            colour = self._stored(fill_transparent(self._floats(colour), self._floats(self.alpha)))
        missing = [(0, cell_side(side, lq_patch) - side) for side in colour.shape[:2]]
        self.colour = np.pad(colour, [*missing, (0, 0)], mode="edge") if any(map(any, missing)) else colour

    def window(self, top: int, bottom: int, left: int, right: int) -> HostArray:
        """RGB (1, 3, bottom - top, right - left), float32 in [0, 1]; gray is repeated."""
        window = _planes(self._floats(self.colour[top:bottom, left:right]))
        return np.broadcast_to(window, (1, 3, *window.shape[2:])) if window.shape[1] == 1 else window

    def rows(self, sr: HostArray, start: int, upsample: Callable[[Array], Array], scale: int) -> HostArray:
        """Rows of the output at the image's own depth: gray if it was gray, with the enlarged alpha.

        Args:
            sr: (1, 3, n, scale W) in [0, 1]; it is used up.
            start: the first of these rows in the output.
            upsample: enlarges (1, 1, h, W) by ``scale``.
            scale: output pixels per input pixel.

        Returns:
            (n, scale W, channels).
        """
        if self.channels < 3:
            sr = (sr * np.array(_LUMA, np.float32).reshape(1, 3, 1, 1)).sum(1, keepdims=True)
        out = np.empty((sr.shape[2], sr.shape[3], self.channels), self.dtype)
        out[..., : sr.shape[1]] = self._stored(sr[0].transpose(1, 2, 0), in_place=True)
        if self.alpha is not None:
            top = max(start // scale - _ALPHA_MARGIN, 0)
            bottom = -(-(start + sr.shape[2]) // scale) + _ALPHA_MARGIN
            enlarged = host(upsample(_planes(self._floats(self.alpha[top:bottom])))).clip(0, 1)
            enlarged = enlarged[:, :, start - top * scale :][:, :, : sr.shape[2]]
            out[..., -1:] = self._stored(enlarged[0].transpose(1, 2, 0), in_place=True)
        return out

    def bands(self, bands: Iterable[Array], upsample: Callable[[Array], Array], scale: int) -> Iterator[HostArray]:
        """:meth:`rows` of restored bands (1, 3, n, scale W) from top to bottom."""
        done = 0
        for band in bands:
            yield self.rows(host(band), done, upsample, scale)
            done += band.shape[2]

    def _floats(self, values: HostArray) -> HostArray:
        """Own depth -> float32 in [0, 1]."""
        return values.astype(np.float32) / np.float32(self.highest)

    def _stored(self, values: HostArray, in_place: bool = False) -> HostArray:
        """float32 in [0, 1] -> own depth; ``in_place`` uses ``values`` up, for a band may have a hundred megabytes."""
        if self.highest > 1:
            values = np.multiply(values, np.float32(self.highest), out=values if in_place else None)
            values = np.rint(values, out=values)
        return values.astype(self.dtype)


def _check(image: Any) -> None:
    """Refuse what is no image by type, shape, dtype or range."""
    if not isinstance(image, np.ndarray) or isinstance(image, np.matrix):
        raise AMDRestoreError(
            f"an image must be a numpy array, not {type(image).__name__}; read a file with "
            "amd_restore.image_io.read_image(file).pixels, convert a PIL image with numpy.asarray(image), and restore "
            "a tensor or several images by calling the pipeline itself"
        )
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 2, 3, 4)):
        raise AMDRestoreError(f"an image must be (H, W) or (H, W, 1 to 4 channels), not {image.shape}")
    if image.dtype.kind != "f" and image.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise AMDRestoreError(f"an image must be uint8, uint16 or floating, not {image.dtype}")
    if image.size == 0:
        raise AMDRestoreError(f"the image is empty: {image.shape}")
    if image.dtype.kind == "f":
        low, high = float(image.min()), float(image.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # also catches NaN
            raise AMDRestoreError(f"an image must lie in [0, 1], alpha too, but spans {low:.3g} to {high:.3g}")


def _planes(pixels: HostArray) -> HostArray:
    """(H, W, C) -> (1, C, H, W)."""
    return np.ascontiguousarray(pixels).transpose(2, 0, 1)[None]
