"""Training crops from one memory-mapped array: no decoding, so that the CPU's time goes to the network."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from amd_restore.errors import AMDRestoreError
from amd_restore.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class CropsDataset(Dataset[dict[str, Any]]):
    """Random crops, flips and transposes of an (N, S, S, 3) uint8 RGB array made by ``datasets/pack_crops.py``.

    Args:
        opt: ``crops_file`` (path of the .npy file), ``gt_size`` (pixels), ``use_hflip``, ``use_rot``.

    Raises:
        AMDRestoreError: when the file is missing, is no such array, or its crops are smaller than ``gt_size``.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt
        path = Path(opt["crops_file"]).expanduser()
        if not path.is_file():
            raise AMDRestoreError(f"{path}: no such crops file; make it with datasets/pack_crops.py")
        try:
            self.crops = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise AMDRestoreError(
                f"{path}: not a NumPy array ({error}); make it with datasets/pack_crops.py"
            ) from error
        if self.crops.ndim != 4 or self.crops.shape[3] != 3 or self.crops.dtype != np.uint8:
            raise AMDRestoreError(
                f"{path}: expected uint8 crops (N, S, S, 3), found {self.crops.dtype} {self.crops.shape}"
            )
        self.size = int(opt["gt_size"])
        if self.size > min(self.crops.shape[1:3]):
            raise AMDRestoreError(f"{path}: crops of {self.crops.shape[1]} pixels are smaller than gt_size {self.size}")

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``gt`` (3, gt_size, gt_size) in [0, 1] and ``gt_path``, a name for logs."""
        height, width = self.crops.shape[1:3]
        top, left = random.randint(0, height - self.size), random.randint(0, width - self.size)
        crop = self.crops[index, top : top + self.size, left : left + self.size]
        if self.opt.get("use_hflip", True) and random.random() < 0.5:
            crop = crop[:, ::-1]
        if self.opt.get("use_rot", True):
            if random.random() < 0.5:
                crop = crop[::-1]
            if random.random() < 0.5:
                crop = crop.transpose(1, 0, 2)
        gt = torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))).float() / 255.0
        return {"gt": gt, "gt_path": f"crop{index:05d}"}
