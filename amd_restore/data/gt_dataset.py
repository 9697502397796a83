"""Validation and test images from folders: pairs, or ground truth alone with ``lq`` made on the fly."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from amd_restore.data.degradations import BicubicDegradation, build_degradation
from amd_restore.errors import AMDRestoreError
from amd_restore.options.blocks import DegradationOptions
from amd_restore.options.fields import Limits, PathText
from amd_restore.registry import DATASET_REGISTRY  # mends and imports BasicSR: stands before it

from basicsr.utils.matlab_functions import imresize  # isort: skip

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def list_images(folder: str | Path) -> list[Path]:
    """Image files directly in ``folder``, sorted by name. ``${VARIABLES}`` and ``~`` are expanded.

    Raises:
        AMDRestoreError: when the folder is missing or holds no image.
    """
    path = Path(os.path.expandvars(str(folder))).expanduser()
    if not path.is_dir():
        raise AMDRestoreError(f"{path}: no such folder; check dataroot_gt / dataroot_lq in the option file")
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in EXTENSIONS)
    if not files:
        raise AMDRestoreError(f"{path}: no image in this folder")
    return files


def read_rgb(path: Path) -> np.ndarray:
    """RGB float32 (H, W, 3) in [0, 1].

    Raises:
        AMDRestoreError: when OpenCV cannot read the file.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise AMDRestoreError(f"{path}: not a readable image")
    return np.asarray(image[:, :, ::-1], dtype=np.float32) / 255.0


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


@DATASET_REGISTRY.register()
class GTDataset(Dataset[dict[str, Any]]):
    """Whole images, in pairs or with the low-quality side made here.

    Without ``dataroot_lq`` the low-quality side is BasicSR's MATLAB-like ``imresize`` at 8 bits, unless
    ``degradation`` has another type than ``bicubic``: then it is that degradation, a function of
    ``degradation_seed`` and the image's file name.

    Args:
        dataroot_gt: folder of clean images.
        scale: upscaling factor of the run.
        dataroot_lq: folder of low-quality images.
        filename_tmpl: name of the low-quality file without its suffix, from the clean one's: ``{}x4``.
        limit: use only the first so many images.
        gt_size: side of a centre crop in output pixels; 0 is the whole image.
        degradation: how low-quality images are made without ``dataroot_lq``; null: as the file's ``degradation``.
        degradation_seed: seed of that, together with the image's name.

    Raises:
        AMDRestoreError: missing or empty folders, or different numbers of files on the two sides.
    """

    def __init__(
        self,
        dataroot_gt: PathText,
        scale: int,
        dataroot_lq: PathText | None = None,
        filename_tmpl: str = "{}",
        limit: Annotated[int, Limits(low=1)] | None = None,
        gt_size: Annotated[int, Limits(low=0)] = 0,
        degradation: DegradationOptions | Mapping[str, Any] | None = None,
        degradation_seed: Annotated[int, Limits(low=0)] = 0,
    ) -> None:
        self.scale, self.size, self.seed = scale, gt_size, degradation_seed
        self.gt_files = list_images(dataroot_gt)[:limit]
        made = build_degradation(degradation or {}, scale)
        self.degradation = None if isinstance(made, BicubicDegradation) else made
        self.lq_files = list_images(dataroot_lq)[:limit] if dataroot_lq else None
        if self.lq_files is not None and len(self.lq_files) != len(self.gt_files):
            raise AMDRestoreError(f"{dataroot_gt} has {len(self.gt_files)} images, {dataroot_lq} {len(self.lq_files)}")

    def __len__(self) -> int:
        return len(self.gt_files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``gt`` (3, sH, sW) and ``lq`` (3, H, W) in [0, 1], with their paths."""
        gt = read_rgb(self.gt_files[index])
        size, multiple = self.size, self.scale
        if self.lq_files is not None:
            lq = read_rgb(self.lq_files[index])
            gt = gt[: lq.shape[0] * multiple, : lq.shape[1] * multiple]
            return self._item(index, gt, lq, self.lq_files[index])
        height, width = gt.shape[:2]
        if size and min(height, width) >= size:
            top, left = (height - size) // 2, (width - size) // 2
            gt = gt[top : top + size, left : left + size]
        # Sides that suit every scale and the space-to-depth factor.
        multiple = 4 * self.scale
        gt = gt[: gt.shape[0] // multiple * multiple, : gt.shape[1] // multiple * multiple]
        return self._item(index, gt, self._degrade(gt, self.gt_files[index].name), self.gt_files[index])

    def _degrade(self, gt: np.ndarray, name: str) -> np.ndarray:
        if self.degradation is not None:
            # By name, so that more or fewer images in the folder change nothing.
            self.degradation.reseed((self.seed << 32) + zlib.crc32(name.encode()))
            lq = self.degradation(_tensor(gt)[None])[0]
            return np.asarray(lq.permute(1, 2, 0).numpy())
        lq = np.clip(imresize(gt, 1 / self.scale), 0, 1) if self.scale > 1 else gt
        return np.asarray((lq * 255.0).round() / 255.0, dtype=np.float32)

    def _item(self, index: int, gt: np.ndarray, lq: np.ndarray, lq_path: Path) -> dict[str, Any]:
        return {
            "gt": _tensor(gt),
            "lq": _tensor(lq),
            "gt_path": str(self.gt_files[index]),
            "lq_path": str(lq_path),
        }
