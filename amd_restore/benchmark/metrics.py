"""Columns of the tables: the exact protocol of each metric, and the rewards after which it is not held out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from amd_restore.benchmark.images import Image, Pair, resize_to_height
from amd_restore.registry import import_basicsr
from amd_restore.rewards import build_lpips
from amd_restore.rewards.brisque import MIN_SIZE as BRISQUE_MIN_SIZE
from amd_restore.rewards.brisque import Machine, brisque, load_machine
from amd_restore.rewards.dists_net import build_dists
from amd_restore.rewards.efficientnet import build_efficientnet

USED, RELATED = "†", "‡"


@dataclass(frozen=True)
class Metric:
    """Column of a table.

    Attributes:
        title: heading.
        protocol: description of the computation, for the table's notes.
        higher_is_better: direction.
        digits: decimals shown.
        family: group of similar metrics; a method trained on one has an advantage on the others.
        needs_gt: False for no-reference metrics.
        default: whether it is a column by default; False if it needs a download.
    """

    title: str
    protocol: str
    higher_is_better: bool
    digits: int
    family: str
    needs_gt: bool = True
    default: bool = True


METRICS: dict[str, Metric] = {
    "psnr_y": Metric("PSNR-Y", "BasicSR calculate_psnr on Y of YCbCr, border cut, dB, at most 100", True, 2, "pixel"),
    "ssim_y": Metric("SSIM-Y", "BasicSR calculate_ssim on Y of YCbCr, border cut", True, 4, "ssim"),
    "lpips_alex": Metric("LPIPS-Alex", "lpips 0.1 AlexNet, RGB, whole image", False, 3, "features"),
    "lpips_squeeze": Metric("LPIPS-Squeeze", "lpips 0.1 SqueezeNet, RGB, whole image", False, 3, "features"),
    "effnet": Metric(
        "EffNet",
        "distance of unit-length EfficientNet-Lite0 features at five resolutions, RGB, whole image",
        False,
        3,
        "features",
    ),
    "dists": Metric("DISTS", "DISTS at the image's own size, RGB, whole image", False, 4, "features", default=False),
    "niqe": Metric("NIQE", "BasicSR calculate_niqe on Y, border cut", False, 2, "statistics", needs_gt=False),
    "brisque": Metric(
        "BRISQUE", "that of the package brisque 0.2.0, gray, border cut", False, 1, "statistics", needs_gt=False
    ),
    "consistency": Metric(
        "LQ-PSNR",
        "PSNR over RGB of the output, scaled down by BasicSR's imresize, against the input, dB, at most 100",
        True,
        2,
        "consistency",
        needs_gt=False,
    ),
}
DEFAULT_METRICS = [name for name, metric in METRICS.items() if metric.default]
# names of rewards and losses in weight headers -> column
_REWARD_COLUMNS = {"psnr": "psnr_y", "ssim": "ssim_y", "lpips": "lpips_alex"}
# prefix of other names (lpips_vgg, niqe_matlab of pyiqa) -> family
_REWARD_FAMILIES = {
    "l1": "pixel",
    "l2": "pixel",
    "pooled_l1": "pixel",
    "psnr": "pixel",
    "ssim": "ssim",
    "ms_ssim": "ssim",
    "lpips": "features",
    "stlpips": "features",
    "effnet": "features",
    "dists": "features",
    "niqe": "statistics",
    "ilniqe": "statistics",
    "brisque": "statistics",
    "consistency": "consistency",
}


def marks(rewards: Iterable[str]) -> dict[str, str]:
    """Return ``†`` for each metric that was a reward or loss, ``‡`` for others of its family.

    Args:
        rewards: names from a weights header; ``lpips-squeeze`` and ``lpips_squeeze`` are the same, and
            ``l1+lpips_squeeze`` is a mixture of two.
    """
    names = [part for name in rewards for part in name.lower().replace("-", "_").split("+")]
    used = {_REWARD_COLUMNS.get(name, name) for name in names}
    families = {METRICS[name].family for name in used if name in METRICS}
    others = {name for name in used if name not in METRICS}
    families |= {
        family for prefix, family in _REWARD_FAMILIES.items() if any(name.startswith(prefix) for name in others)
    }
    return {
        name: USED if name in used else RELATED
        for name, metric in METRICS.items()
        if name in used or metric.family in families
    }


class Measure:
    """Computation of metrics on 8-bit images.

    Args:
        names: keys of :data:`METRICS`.
        crop_border: pixels cut from each side for PSNR, SSIM, NIQE and BRISQUE.
        device: device of the networks.

    Raises:
        AMDRestoreError: BasicSR, another package or the weights of a network are missing.
    """

    def __init__(self, names: Iterable[str], crop_border: int, device: torch.device | str = "cpu") -> None:
        self.names, self.crop_border, self.device = tuple(names), crop_border, torch.device(device)
        import_basicsr()
        from basicsr.metrics import calculate_niqe, calculate_psnr, calculate_ssim

        self._basicsr: dict[str, Callable[..., float]] = {
            "psnr_y": calculate_psnr,
            "ssim_y": calculate_ssim,
            "niqe": calculate_niqe,
        }
        self._distances: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            name: self._distance(name) for name in self.names if METRICS[name].family == "features"
        }
        self._machine = load_machine() if "brisque" in self.names else None

    def _distance(self, name: str) -> Callable[[Tensor, Tensor], Tensor]:
        if name == "effnet":
            return build_efficientnet(self.device)
        if name == "dists":
            return build_dists(device=self.device)
        return build_lpips(name.removeprefix("lpips_"), self.device)

    def __call__(self, sr: Image, pair: Pair) -> dict[str, float]:
        """Return metrics of ``sr`` (sH, sW, 3), RGB; NaN if undefined or without the needed ground truth.

        NIQE is undefined below two blocks of 96 pixels and for constant images; BRISQUE below 32 pixels.
        """
        return {name: self._one(name, sr, pair) for name in self.names}

    def _one(self, name: str, sr: Image, pair: Pair) -> float:
        if pair.gt is None and METRICS[name].needs_gt:
            return float("nan")
        if name in self._distances:
            assert pair.gt is not None
            with torch.no_grad():
                return float(self._distances[name](self._tensor(sr), self._tensor(pair.gt)))
        if self._machine is not None and name == "brisque":
            return self._brisque(sr, self._machine)
        if name == "consistency":
            return consistency(sr, pair.lq)
        # BasicSR expects BGR.
        bgr, options = sr[:, :, ::-1], {"crop_border": self.crop_border}
        if name == "niqe":
            rows, cols = ((side - 2 * self.crop_border) // 96 for side in sr.shape[:2])
            try:
                return float(self._basicsr[name](bgr, **options)) if rows * cols >= 2 else float("nan")
            except np.linalg.LinAlgError:
                return float("nan")  # An image without contrast has no statistics.
        assert pair.gt is not None
        value = float(self._basicsr[name](bgr, pair.gt[:, :, ::-1], test_y_channel=True, **options))
        return min(value, 100.0)  # The PSNR of equal images is infinite, of which no mean can be written.

    def _brisque(self, sr: Image, machine: Machine) -> float:
        rows, cols = (side - 2 * self.crop_border for side in sr.shape[:2])
        if min(rows, cols) < BRISQUE_MIN_SIZE:
            return float("nan")
        border = self.crop_border
        inside = np.ascontiguousarray(sr[border : border + rows, border : border + cols])
        return float(brisque(self._tensor(inside).cpu(), machine))

    def _tensor(self, image: Image) -> Tensor:
        return torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float().div(255).to(self.device)


def consistency(sr: Image, lq: Image) -> float:
    """Return the PSNR in dB between the input and the downscaled output, at most 100."""
    small = np.clip(resize_to_height(sr, lq.shape[0]), 0.0, 1.0)
    mse = float(np.mean((small - lq / 255.0) ** 2))
    return -10.0 * float(np.log10(max(mse, 1e-10)))
