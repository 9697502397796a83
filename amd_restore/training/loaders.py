"""Datasets and loaders of a run."""

from __future__ import annotations

import logging
from typing import Any

import torch

from amd_restore.errors import AMDRestoreError


def create_dataloaders(opt: dict[str, Any], logger: logging.Logger) -> tuple[Any, ...]:
    """Loaders whose order is a function of progress; same result shape as BasicSR's function.

    The whole run is one epoch of positions, starting where the resume state stands.

    Raises:
        AMDRestoreError: when no training data is given.
    """
    from basicsr.data import build_dataset

    from amd_restore.data.degradations import build_degradation
    from amd_restore.data.device_crops import DeviceCrops, lies_on_device
    from amd_restore.data.resumable import DegradedPositions, PositionDataset, PositionSampler
    from amd_restore.models.distributed import images_of_process

    train_loader: Any = None
    sampler, val_loaders = None, []
    total_iters = int(opt["train"]["total_iter"])
    for phase, options in opt["datasets"].items():
        dataset = build_dataset(options)
        if options["phase"] != "train":
            val_loaders.append(torch.utils.data.DataLoader(dataset, batch_size=1))
            continue
        batch = images_of_process(opt)
        start, total = opt.get("resume_iter", 0) * batch, total_iters * batch
        sampler = PositionSampler(start, total, opt["rank"], opt["world_size"], batch)
        device = torch.device("cuda" if opt["num_gpu"] else "cpu")
        workers, degradation = int(options.get("num_worker_per_gpu") or 0), opt.get("degradation") or {}
        is_random = degradation.get("type") == "second_order"  # too much for a GPU: small sizes, image by image
        wish = options.get("on_device", "auto")
        on_device = lies_on_device(dataset, "never" if workers and is_random and wish == "auto" else wish, device)
        positions: Any = PositionDataset(dataset, opt["manual_seed"])
        if on_device:
            dataset.only_places, workers = True, 0
        elif workers and is_random:
            degrade = build_degradation(degradation, opt["scale"])
            positions = DegradedPositions(positions, degrade, batch * opt["world_size"])
        train_loader = torch.utils.data.DataLoader(
            positions,
            batch_size=batch,
            sampler=sampler,
            num_workers=workers,
            pin_memory=bool(options.get("pin_memory")),
            drop_last=True,
        )
        if on_device:
            train_loader = DeviceCrops(train_loader, dataset, device)
        passes = total_iters * batch * opt["world_size"] / len(dataset)
        length = f"{total_iters} iterations of {batch}: {passes:.1f} passes"
        if opt["train"].get("time_limit"):
            length = f"{opt['train']['time_limit']:g} s, or {length}; the learning rate follows the clock"
        logger.info(f"{len(dataset)} training samples, {length} ({phase})")
    if train_loader is None:
        raise AMDRestoreError(f"{opt['opt_path']}: datasets has no 'train' entry")
    return train_loader, sampler, val_loaders, 0, total_iters
