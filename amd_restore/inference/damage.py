"""How damaged an image is: not at all, only scaled down; lightly, as by a web site's JPEG; or heavily.

Blocks of 8x8 pixels are transformed by the cosine transform of JPEG, once on the grid on which JPEG would have cut them
and once half a block beside it. Means over the image of magnitudes and of the share of coefficients near zero tell
quantisation, noise and blur apart; a small network maps them to probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from amd_restore.arrays import HostArray
from amd_restore.errors import AMDRestoreError

FEATURES = 516  # what damage_features returns
SEVERITIES = ("clean", "light", "heavy")
ESTIMATOR = Path(__file__).with_name("damage.safetensors")
SMALLEST = 24  # pixels of a side; smaller images have too few blocks
_VERSION = 4  # of the file and of the features
_KEY = "amd_restore_damage"  # of the header in the metadata
METADATA = {_KEY: json.dumps({"format_version": _VERSION})}  # of a file for DamageEstimator.load
_LAYERS = (1, 2, 3)  # numbers of the network's layers
_TENSORS = ("mean", "std", *(f"{kind}{layer}" for layer in _LAYERS for kind in ("weight", "bias")))
_CLEAN = 0.6  # probability above which an image is clean; below it sharpened damage costs more than lost sharpness
_LIGHT = 3.0  # times as likely as heavy must light damage be: treated as light, heavy damage stays in the image
_BLOCK = 8  # pixels, as in JPEG
_SIDE = 64  # the square of it is the most blocks that are looked at, evenly over the image
_GRIDS = (0, _BLOCK // 2)  # offsets of the blocks
_TO_YCC = np.array(((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)))  # as JPEG's
_FEWEST = 4  # blocks; with fewer that vary, all are looked at
_VARIED = 1e-3  # levels of 255; a block without a greater coefficient, but the mean, is of one colour
_ZERO = 0.6  # a coefficient below it, in levels of 255, is near zero
_FLOOR = 0.5  # levels of 255, added before logarithms
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


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
    first, second = (np.abs(_coefficients(image, offset)) for offset in _GRIDS)
    for luma in (first[0], second[0]):
        found += [_logarithms(luma)[1:], _near_zero(luma)[1:]]  # without the mean of the block
    found += [found[0] - found[2], found[1] - found[3]]
    chroma = first[1:].reshape(-1, _BLOCK, _BLOCK)
    found += [_logarithms(chroma), _near_zero(chroma)]
    # Quantiles over blocks: what flat blocks hold is noise, what the busiest hold is detail.
    for band in (slice(4, 8), slice(2, 5)):
        energy = np.sqrt(np.square(second[0][:, band, band]).mean((1, 2)))
        found.append(np.log(_FLOOR + np.quantile(energy, _QUANTILES)))
    return np.concatenate(found)


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


def _coefficients(image: HostArray, offset: int) -> HostArray:
    """Cosine transforms of blocks of luma and the two chroma planes: (3, blocks, 8, 8), in levels of 255."""
    rows, columns = (np.arange(offset, side - _BLOCK + 1, _BLOCK) for side in image.shape[:2])
    height = min(len(rows), max(_SIDE, _SIDE**2 // len(columns)))
    rows, columns = _thinned(rows, height), _thinned(columns, _SIDE**2 // height)
    tops, lefts = (starts.ravel() for starts in np.meshgrid(rows, columns, indexing="ij"))
    inside = np.arange(_BLOCK)
    y, x = tops[:, None] + inside, lefts[:, None] + inside
    highest = 1.0 if image.dtype.kind == "f" else float(np.iinfo(image.dtype).max)
    blocks = image[y[:, :, None], x[:, None, :]].astype(np.float64) / highest
    blocks = blocks.reshape(*blocks.shape[:3], -1)
    if blocks.shape[3] in (2, 4):
        blocks = _enough(blocks, np.asarray(blocks[..., -1].any((1, 2))))
    if blocks.shape[3] < 3:  # gray
        blocks = np.repeat(blocks[..., :1], 3, axis=3)
    found = _DCT @ (255.0 * np.stack([blocks[..., :3] @ weights for weights in _TO_YCC], axis=1)) @ _DCT.T
    varied = np.abs(found).max(1).reshape(len(blocks), -1)[:, 1:].max(1) > _VARIED
    return _enough(found, varied).transpose(1, 0, 2, 3)


def _enough(blocks: HostArray, wanted: HostArray) -> HostArray:
    """The wanted blocks, or all where those are too few."""
    return blocks[wanted] if wanted.sum() >= _FEWEST else blocks


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
