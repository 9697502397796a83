"""Training crops kept in device memory as bytes, and cut and flipped there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from amd_restore.data.crops_dataset import CropsDataset
from amd_restore.errors import AMDRestoreError

ROOM = 0.25  # share of the memory that is free before training


def lies_on_device(dataset: Dataset[Any], wish: str, device: torch.device) -> bool:
    """Return whether to keep the crops of ``dataset`` in the memory of ``device``.

    Args:
        dataset: training data.
        wish: ``datasets.train.on_device``.
        device: device of the training.

    Raises:
        AMDRestoreError: ``always``, and the dataset has no array of crops.
    """
    if not isinstance(dataset, CropsDataset):
        if wish == "always":
            raise AMDRestoreError("datasets.train.on_device: only CropsDataset has such crops; set it to auto")
        return False
    if wish != "auto" or device.type != "cuda" or not torch.cuda.is_available():
        return wish == "always"
    return dataset.crops.nbytes <= ROOM * torch.cuda.mem_get_info(device)[0]


class DeviceCrops:
    """Batches of ``loader`` with the pixels that a :class:`CropsDataset` with ``only_places`` leaves out.

    The same seed gives the same pixels as without device memory.

    Args:
        loader: batches of places.
        dataset: dataset of the crops.
        device: device of all crops and of the batches.
    """

    def __init__(self, loader: Iterable[dict[str, Any]], dataset: CropsDataset, device: torch.device) -> None:
        self.loader, self.size = loader, dataset.size
        self.crops = torch.from_numpy(dataset.crops.copy()).to(device)
        # A table gives the same values everywhere; a GPU would multiply by 1 / 255 where a CPU divides.
        self.levels = (torch.arange(256).float() / 255.0).to(device)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.loader:
            place = batch.pop("place").to(self.crops.device, non_blocking=True)
            yield {"gt": self.cut(place), **batch}

    def cut(self, place: Tensor) -> Tensor:
        """Cut (B, 3, size, size) in [0, 1] at places (B, 6), see :meth:`CropsDataset.place`."""
        index, top, left, mirrored, flipped, transposed = place[:, :, None, None].unbind(1)
        along = torch.arange(self.size, device=place.device)
        down, across = along[:, None].expand(-1, self.size), along.expand(self.size, -1)
        row = torch.where(transposed > 0, across, down)
        column = torch.where(transposed > 0, down, across)
        row = top + torch.where(flipped > 0, self.size - 1 - row, row)
        column = left + torch.where(mirrored > 0, self.size - 1 - column, column)
        return self.levels[self.crops[index, row, column].int()].permute(0, 3, 1, 2).contiguous()
