"""Datasets and loaders of a run."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Mapping
from typing import Any

import torch

from amd_restore.errors import AMDRestoreError
from amd_restore.options.basicsr import DatasetOptions, PairedImageOptions
from amd_restore.options.fields import build, defaults
from amd_restore.options.run import dataset_arguments, takes_dictionary
from amd_restore.registry import import_basicsr


def build_dataset(opt: Mapping[str, Any], phase: str) -> Any:
    """The dataset of ``datasets.PHASE``, with its block as ``opt``.

    Args:
        opt: checked options of the run.
        phase: train, val, val_2, test ...

    Raises:
        AMDRestoreError: it cannot be made: missing files, wrong sizes ...; names the phase.
    """
    block = opt["datasets"][phase]
    cls = import_basicsr().DATASET_REGISTRY.get(block["type"])
    arguments = {key: value for key, value in block.items() if key not in defaults(DatasetOptions)}
    del arguments["type"], arguments["name"]
    expected = inspect.signature(dataset_arguments(block["type"])).parameters
    if phase != "train" and "degradation" in expected and opt.get("degradation"):
        arguments.setdefault("degradation", opt["degradation"])
    try:
        if takes_dictionary(cls):
            if block["type"] == "PairedImageDataset":
                arguments = dataclasses.asdict(build(arguments, PairedImageOptions))
            names = {"name": block["name"], "phase": phase.split("_")[0], "scale": opt["scale"]}
            dataset = cls({**arguments, **names})
        else:
            dataset = cls(**arguments, **({"scale": opt["scale"]} if "scale" in expected else {}))
    except AMDRestoreError as error:
        raise AMDRestoreError(f"datasets.{phase}: {error}") from error
    dataset.opt = block
    return dataset


def create_dataloaders(opt: dict[str, Any], logger: logging.Logger) -> tuple[Any, ...]:
    """Loaders whose order is a function of progress; same result shape as BasicSR's function.

    The whole run is one epoch of positions, starting where the resume state stands.

    Raises:
        AMDRestoreError: when no training data is given.
    """
    from amd_restore.data.degradations import build_degradation
    from amd_restore.data.device_crops import DeviceCrops, lies_on_device
    from amd_restore.data.resumable import DegradedPositions, PositionDataset, PositionSampler
    from amd_restore.models.distributed import images_of_process

    train_loader: Any = None
    sampler, val_loaders = None, []
    total_iters = int(opt["train"]["total_iter"])
    for phase, options in opt["datasets"].items():
        dataset = build_dataset(opt, phase)
        if phase != "train":
            val_loaders.append(torch.utils.data.DataLoader(dataset, batch_size=1))
            continue
        batch = images_of_process(opt)
        start, total = opt.get("resume_iter", 0) * batch, total_iters * batch
        sampler = PositionSampler(start, total, opt["rank"], opt["world_size"], batch)
        device = torch.device("cuda" if opt["num_gpu"] else "cpu")
        workers, degradation = options["num_worker_per_gpu"], opt.get("degradation") or {}
        is_random = degradation.get("type") == "second_order"  # too much for a GPU: small sizes, image by image
        wish = options["on_device"]
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
            pin_memory=options["pin_memory"],
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
