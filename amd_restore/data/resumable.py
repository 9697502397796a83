"""Training data as a function of progress: the n-th sample of a run does not depend on resumes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from amd_restore.data.base import Degradation


class PositionDataset(Dataset[Any]):
    """Wrapper of a dataset, indexed by position in the run instead of by item.

    Position ``p`` is item ``p mod N`` of a fresh permutation per pass, with Python's, NumPy's and torch's
    generators seeded from ``(seed, p)`` while the item is made, so that random crops and flips repeat exactly.

    Args:
        dataset: the wrapped dataset.
        seed: seed of the run.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        self._pass, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> Any:
        number, offset = divmod(position, len(self))
        if number != self._pass:
            self._pass = number
            self._order = np.random.default_rng((self.seed, number)).permutation(len(self))
        saved = random.getstate(), np.random.get_state(), torch.get_rng_state()
        item_seed = int(np.random.SeedSequence((self.seed, position)).generate_state(1)[0])
        random.seed(item_seed)
        np.random.seed(item_seed)
        # torch.manual_seed would also seed GPUs; without one it keeps the call, with its stack, for later: every time.
        torch.default_generator.manual_seed(item_seed)
        try:
            return self.dataset[int(self._order[offset])]
        finally:
            random.setstate(saved[0])
            np.random.set_state(saved[1])
            torch.set_rng_state(saved[2])


def step_seed(manual_seed: int, iteration: int) -> int:
    """Return the seed of an iteration, the same in all processes, from 0 to 2^63 - 1."""
    return (manual_seed * 1_000_003 + iteration) * 1_009 % 2**63


class DegradedPositions(Dataset[dict[str, Any]]):
    """Wrapper of a dataset that adds ``lq`` in the loader's workers, in parallel with the device.

    ``lq`` equals that of a model for the whole batch, because an image's degradation depends only on the iteration and
    its place in the batch.

    Args:
        dataset: items with ``gt`` (3, H, W); items with ``lq`` are unchanged.
        degradation: degradation, on the CPU.
        images: number of images of all processes in an iteration.
    """

    def __init__(self, dataset: PositionDataset, degradation: Degradation, images: int) -> None:
        self.dataset, self.degradation, self.images = dataset, degradation, images

    def __getitem__(self, position: int) -> dict[str, Any]:
        item: dict[str, Any] = self.dataset[position]
        if "lq" not in item:
            iteration, before = divmod(position, self.images)
            self.degradation.reseed(step_seed(self.dataset.seed, iteration + 1), before)
            item["lq"] = self.degradation(item["gt"][None])[0]
        return item


class PositionSampler(Sampler[int]):
    """Positions of one process, in order, from the current position of the run.

    The batches of all processes at one iteration follow one another in the order of their ranks, so that the batch of
    an iteration is the same for any number of processes that together take as many samples.

    Args:
        start: samples already consumed by this process.
        total: samples this process consumes in the whole run.
        rank, world_size: position of this process among all.
        batch: samples of this process in an iteration.
    """

    def __init__(self, start: int, total: int, rank: int = 0, world_size: int = 1, batch: int = 1) -> None:
        self.start, self.total, self.rank, self.world_size, self.batch = start, total, rank, world_size, batch

    def set_epoch(self, epoch: int) -> None:
        """Do nothing (BasicSR's loop calls this): passes are counted by :class:`PositionDataset`."""

    def __iter__(self) -> Iterator[int]:
        for i in range(self.start, self.total):
            iteration, sample = divmod(i, self.batch)
            yield (iteration * self.world_size + self.rank) * self.batch + sample

    def __len__(self) -> int:
        return self.total - self.start
