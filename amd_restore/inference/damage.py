"""How damaged an image is: not at all, only scaled down; lightly, as by a web site's JPEG; or heavily.

Blocks of 8x8 pixels are transformed by the cosine transform of JPEG, once on the grid on which JPEG would have cut them
and once half a block beside it. Means over the image of magnitudes and of the share of coefficients near zero tell
quantisation, noise and blur apart, quantiles over blocks noise and detail, and extremes over parts of the image what is
damaged in one of them; a small network maps them to probabilities.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from amd_restore.arrays import HostArray
from amd_restore.errors import AMDRestoreError

FEATURES = 579  # what damage_features returns
SEVERITIES = ("clean", "light", "heavy")
ESTIMATOR = Path(__file__).with_name("damage.safetensors")
SMALLEST = 24  # pixels of a side; smaller images have too few blocks
_VERSION = 5  # of the file and of the features
_KEY = "amd_restore_damage"  # of the header in the metadata
METADATA = {_KEY: json.dumps({"format_version": _VERSION})}  # of a file for DamageEstimator.load
_LAYERS = (1, 2, 3)  # numbers of the network's layers
_TENSORS = ("mean", "std", *(f"{kind}{layer}" for layer in _LAYERS for kind in ("weight", "bias")))
_CLEAN = 0.4  # probability above which an image is clean; below it sharpened damage costs more than lost sharpness
_LIGHT = 1.5  # times as likely as heavy must light damage be: treated as light, heavy damage stays in the image
_BLOCK = 8  # pixels, as in JPEG
_SIDE = 64  # the square of it is the most blocks that are looked at, evenly over the image
_GRIDS = (0, _BLOCK // 2)  # offsets of the blocks
_TO_YCC = np.array(((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)))  # as JPEG's
_FEWEST = 4  # blocks; with fewer that vary, all are looked at
_VARIED = 1e-3  # levels of 255; a block without a greater coefficient, but the mean, is of one colour
_ZERO = 0.6  # a coefficient below it, in levels of 255, is near zero
_FLOOR = 0.5  # levels of 255, added before logarithms
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LUMA, _CHROMA = slice(0, 1), slice(1, 3)  # of the planes
_FLATNESS = (  # planes, and frequencies along both axes
    (_LUMA, slice(4, 8)),
    (_LUMA, slice(2, 5)),
    (_LUMA, slice(1, 3)),
    (_CHROMA, slice(2, 8)),
    (_CHROMA, slice(1, 3)),
)
_WINDOWS = 4  # parts of each side of an image; damage in one of them is lost in means over the whole


def damage_features(image: HostArray) -> HostArray:
    """Compute the statistics of an image, of the blocks that are neither transparent nor of one colour.

    A photograph on a white page is judged by the photograph.

    Args:
        image: as for :meth:`~amd_restore.pipeline.RestorationPipeline.restore_image`, with sides of at least
            :data:`SMALLEST`.

    Returns:
        (:data:`FEATURES`,), float64.
    """
    found: list[HostArray] = []
    (first, _), (second, windows) = (_coefficients(image, offset) for offset in _GRIDS)
    for luma in (first[0], second[0]):
        found += [_logarithms(luma)[1:], _near_zero(luma)[1:]]  # without the mean of the block
    found += [found[0] - found[2], found[1] - found[3]]
    chroma = first[1:].reshape(-1, _BLOCK, _BLOCK)
    found += [_logarithms(chroma), _near_zero(chroma)]
    # Quantiles over blocks: what flat blocks hold is noise, what the busiest hold is detail.
    for plane, band in _FLATNESS:
        energy = np.sqrt(np.square(second[plane][..., band, band]).mean((0, 2, 3)))
        found.append(np.log(_FLOOR + np.quantile(energy, _QUANTILES)))
    return np.concatenate([*found, _extremes(second, windows)])


def damage_of(features: HostArray, tensors: Mapping[str, HostArray]) -> HostArray:
    """Return the probabilities of :data:`SEVERITIES` for an image of these features.

    Args:
        features: of :func:`damage_features`.
        tensors: ``mean`` and ``std`` of features, and ``weight1``, ``bias1`` to ``weight3``, ``bias3`` of three layers.

    Returns:
        (3,), float64, of sum 1.
    """
    x = (features - tensors["mean"]) / tensors["std"]
    for layer in _LAYERS:
        x = tensors[f"weight{layer}"] @ (np.maximum(x, 0.0) if layer > 1 else x) + tensors[f"bias{layer}"]
    odds = np.exp(x - x.max())
    return np.asarray(odds / odds.sum())


def severity_of(probabilities: HostArray) -> str:
    """Return the one of :data:`SEVERITIES` by which an image of these probabilities, (3,), should be treated."""
    clean, light, heavy = probabilities
    if clean > _CLEAN:
        return "clean"
    return "light" if light > _LIGHT * heavy else "heavy"


class DamageEstimator:
    """The network of :func:`damage_of`.

    Args:
        tensors: see there.
    """

    def __init__(self, tensors: Mapping[str, HostArray]) -> None:
        self._tensors = {name: value.astype(np.float64) for name, value in tensors.items()}

    @classmethod
    def load(cls, path: Path = ESTIMATOR) -> DamageEstimator:
        """Load the estimator in the package, or one that ``benchmarks/scripts/fit_damage.py`` has written.

        Raises:
            AMDRestoreError: the file is missing or no such estimator.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                header = json.loads((file.metadata() or {})[_KEY])
                if header["format_version"] != _VERSION:
                    raise ValueError(f"version {header['format_version']}, not {_VERSION}")
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
            shape = tensors["mean"].shape
            fits = shape == tensors["std"].shape == (FEATURES,)
            for layer in _LAYERS:
                shape, inputs = tensors[f"bias{layer}"].shape, shape
                fits = fits and tensors[f"weight{layer}"].shape == (*shape, *inputs)
            if not fits or shape != (len(SEVERITIES),):
                raise ValueError("tensors of other shapes")
            if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
                raise ValueError("values that are not finite")
            return cls(tensors)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise AMDRestoreError(f"{path}: no estimator of damage ({error}); install the package again") from error

    def __call__(self, image: HostArray) -> HostArray:
        """Return the probabilities of :data:`SEVERITIES`; heavy alone where the image is too small to tell.

        Args:
            image: as for :meth:`~amd_restore.pipeline.RestorationPipeline.restore_image`.
        """
        if min(image.shape[:2]) < SMALLEST:
            return np.array((0.0, 0.0, 1.0))
        return damage_of(damage_features(image), self._tensors)

    def severity(self, image: HostArray) -> str:
        """Return the one of :data:`SEVERITIES` by which ``image`` should be treated."""
        return severity_of(self(image))


def _coefficients(image: HostArray, offset: int) -> tuple[HostArray, HostArray]:
    """Cosine transforms of blocks of luma and the two chroma planes, and the window of each.

    Returns:
        Magnitudes (3, blocks, 8, 8), in levels of 255; numbers (blocks,).
    """
    rows, columns = (np.arange(offset, side - _BLOCK + 1, _BLOCK) for side in image.shape[:2])
    height = min(len(rows), max(_SIDE, _SIDE**2 // len(columns)))
    rows, columns = _thinned(rows, height), _thinned(columns, _SIDE**2 // height)
    tops, lefts = (starts.ravel() for starts in np.meshgrid(rows, columns, indexing="ij"))
    inside = np.arange(_BLOCK)
    y, x = tops[:, None] + inside, lefts[:, None] + inside
    highest = 1.0 if image.dtype.kind == "f" else float(np.iinfo(image.dtype).max)
    blocks = image[y[:, :, None], x[:, None, :]].astype(np.float64) / highest
    blocks = blocks.reshape(*blocks.shape[:3], -1)
    windows = _WINDOWS * (_WINDOWS * tops // image.shape[0]) + _WINDOWS * lefts // image.shape[1]
    if blocks.shape[3] in (2, 4):
        blocks, windows = _enough(np.asarray(blocks[..., -1].any((1, 2))), blocks, windows)
    if blocks.shape[3] < 3:  # gray
        blocks = np.repeat(blocks[..., :1], 3, axis=3)
    planes = 255.0 * np.stack([blocks[..., :3] @ weights for weights in _TO_YCC], axis=1)
    found = np.abs(_DCT @ planes @ _DCT.T)
    varied = found.max(1).reshape(len(blocks), -1)[:, 1:].max(1) > _VARIED
    found, windows = _enough(varied, found, windows)
    return found.transpose(1, 0, 2, 3), windows


def _enough(wanted: HostArray, *arrays: HostArray) -> tuple[HostArray, ...]:
    """The wanted entries of each, or all where those are too few."""
    return tuple(array[wanted] for array in arrays) if wanted.sum() >= _FEWEST else arrays


def _extremes(magnitudes: HostArray, windows: HostArray) -> HostArray:
    """Least, greatest and spread over windows of means in bands of frequencies.

    Args:
        magnitudes: (3, blocks, 8, 8).
        windows: (blocks,), see :func:`_coefficients`.
    """
    logarithms, near_zero = np.log(_FLOOR + magnitudes), magnitudes < _ZERO
    gray = [logarithms[0][:, band].mean(1) for band in _LUMA_BANDS]
    colour = [logarithms[1:, :, band].mean((0, 2)) for band in _CHROMA_BANDS]
    slopes = [upper - lower for lower, upper in itertools.pairwise(gray)]
    blocks = np.stack([*gray, *(near_zero[0][:, band].mean(1) for band in _LUMA_BANDS), *colour, *slopes], axis=1)
    members = windows == np.unique(windows)[:, None]
    means = members @ blocks / members.sum(1, keepdims=True)
    return np.concatenate([means.min(0), means.max(0), means.std(0)])


def _thinned(values: HostArray, count: int) -> HostArray:
    """At most ``count`` of ``values``, evenly over them."""
    return values[np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)]


def _logarithms(magnitudes: HostArray) -> HostArray:
    return np.log(_FLOOR + magnitudes).mean(0).ravel()


def _near_zero(magnitudes: HostArray) -> HostArray:
    return (magnitudes < _ZERO).mean(0).ravel()


def _dct() -> HostArray:
    """Orthonormal cosine transform (type II) of a block's rows."""
    frequency, place = np.arange(_BLOCK)[:, None], np.arange(_BLOCK)
    matrix = np.cos(np.pi * (2 * place + 1) * frequency / (2 * _BLOCK)) * np.sqrt(2 / _BLOCK)
    matrix[0] /= np.sqrt(2)
    return matrix


_DCT = _dct()
_SUM = np.add.outer(np.arange(_BLOCK), np.arange(_BLOCK))  # of both frequencies
_LUMA_BANDS, _CHROMA_BANDS = (
    [(lower <= _SUM) & (upper > _SUM) for lower, upper in itertools.pairwise(limits)]
    for limits in ((1, 3, 5, 7, 10, 15), (1, 5, 10))
)
