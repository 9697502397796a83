"""Training crops from one memory-mapped array, which need no decoding."""

from __future__ import annotations

import random
from typing import Annotated, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from amd_restore.atomic import expanded
from amd_restore.errors import AMDRestoreError
from amd_restore.options.fields import Limits, PathText
from amd_restore.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class CropsDataset(Dataset[dict[str, Any]]):
    """Random crops, flips and transposes of an (N, S, S, 3) uint8 RGB array made by ``datasets/pack_crops.py``.

    Args:
        crops_file: path of the .npy file.
        gt_size: side of a training crop in output pixels.
        use_hflip: flip half of the crops horizontally.
        use_rot: rotate crops by multiples of 90 degrees.

    Attributes:
        only_places: return :meth:`place` instead of pixels, for :class:`~amd_restore.data.device_crops.DeviceCrops`.

    Raises:
        AMDRestoreError: the file is missing, is not such an array, or has crops smaller than ``gt_size``.
    """

    only_places = False

    def __init__(
        self,
        crops_file: PathText,
        gt_size: Annotated[int, Limits(low=1)],
        use_hflip: bool = True,
        use_rot: bool = True,
    ) -> None:
        self.path, self.size = expanded(crops_file), gt_size
        self.use_hflip, self.use_rot = use_hflip, use_rot
        self.crops = self._open()

    def _open(self) -> np.ndarray:
        path = self.path
        if not path.is_file():
            raise AMDRestoreError(f"{path}: no such crops file; make it with datasets/pack_crops.py")
        try:
            crops = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise AMDRestoreError(
                f"{path}: not a NumPy array ({error}); make it with datasets/pack_crops.py"
            ) from error
        if not len(crops):
            raise AMDRestoreError(f"{path}: holds no crops; make it with datasets/pack_crops.py")
        if crops.ndim != 4 or crops.shape[3] != 3 or crops.dtype != np.uint8:
            raise AMDRestoreError(f"{path}: expected uint8 crops (N, S, S, 3), found {crops.dtype} {crops.shape}")
        if self.size > min(crops.shape[1:3]):
            raise AMDRestoreError(f"{path}: crops of {crops.shape[1]} pixels are smaller than gt_size {self.size}")
        return np.asanyarray(crops)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the array, because a pickled memory map is a copy in each spawned worker."""
        return {key: value for key, value in self.__dict__.items() if key != "crops"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.crops = self._open()

    def __len__(self) -> int:
        return len(self.crops)

    def place(self, index: int) -> tuple[int, int, int, bool, bool, bool]:
        """Draw a cut of crop ``index``: index, top, left, and whether to flip rows, columns, and to transpose."""
        height, width = self.crops.shape[1:3]
        top, left = random.randint(0, height - self.size), random.randint(0, width - self.size)
        mirrored = self.use_hflip and random.random() < 0.5
        flipped, transposed = False, False
        if self.use_rot:
            flipped, transposed = random.random() < 0.5, random.random() < 0.5
        return index, top, left, mirrored, flipped, transposed

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return ``gt`` (3, gt_size, gt_size) in [0, 1] and ``gt_path``, a name for logs."""
        place = self.place(index)
        name = f"crop{index:05d}"
        if self.only_places:
            return {"place": torch.tensor(place), "gt_path": name}
        _, top, left, mirrored, flipped, transposed = place
        crop = self.crops[index, top : top + self.size, left : left + self.size]
        if mirrored:
            crop = crop[:, ::-1]
        if flipped:
            crop = crop[::-1]
        if transposed:
            crop = crop.transpose(1, 0, 2)
        gt = torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))).float() / 255.0
        return {"gt": gt, "gt_path": name}
