"""Datasets and loaders of a run."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import torch

from amd_restore.data.degradations import build_degradation
from amd_restore.data.device_crops import DeviceCrops, lies_on_device
from amd_restore.data.image_files import usable_pairs
from amd_restore.data.resumable import DegradedPositions, PositionDataset, PositionSampler
from amd_restore.errors import AMDRestoreError
from amd_restore.models.distributed import images_of_process
from amd_restore.models.validation import check_metrics, measure
from amd_restore.options.basicsr import DatasetOptions, PairedImageOptions
from amd_restore.options.fields import build, defaults
from amd_restore.options.run import dataset_arguments, takes_dictionary
from amd_restore.registry import import_basicsr  # Import this first: it patches and imports BasicSR.

from basicsr.utils import get_root_logger, tensor2img  # isort: skip

# As large as a batch of clean crops: these, their latents, noise, noisy latents, the prediction and its gradient.
_TENSORS = 6


def build_dataset(opt: Mapping[str, Any], phase: str) -> Any:
    """Build the dataset of ``datasets.PHASE``, with its block as ``opt``.

    Args:
        opt: checked options of the run.
        phase: train, val, val_2, test ...

    Raises:
        AMDRestoreError: missing files, wrong sizes ...; the message names the phase.
    """
    block = opt["datasets"][phase]
    cls = import_basicsr().DATASET_REGISTRY.get(block["type"])
    arguments = {key: value for key, value in block.items() if key not in defaults(DatasetOptions)}
    del arguments["type"], arguments["name"]
    expected = inspect.signature(dataset_arguments(block["type"])).parameters
    if phase != "train" and "degradation" in expected and opt.get("degradation"):
        arguments.setdefault("degradation", opt["degradation"])
    if phase == "train" and "gt_size" in expected and not block.get("gt_size"):
        raise AMDRestoreError(f"datasets.{phase}.gt_size: missing; training takes crops of one size")
    names = {"phase": phase.split("_")[0], "scale": opt["scale"]}
    try:
        if block["type"] == "PairedImageDataset":
            dataset = _paired_images(cls, arguments, {**names, "name": block["name"]})
        elif takes_dictionary(cls):
            dataset = cls({**block, **names})
        else:
            dataset = cls(**arguments, **({"scale": opt["scale"]} if "scale" in expected else {}))
        if not len(dataset):
            raise AMDRestoreError(f"no usable image{_named('; left out: ', getattr(dataset, 'left_out', ()))}")
        # Use a copy of a BasicSR dataset, whose databases must not be open when workers are forked.
        item = PositionDataset(copy.deepcopy(dataset) if takes_dictionary(cls) else dataset, 0)[0]
        if not isinstance(item, Mapping) or "gt" not in item:
            raise AMDRestoreError(f"{block['type']}: an item must be a dictionary with 'gt'")
    except AMDRestoreError as error:
        raise AMDRestoreError(f"datasets.{phase}: {error}") from error
    except Exception as error:  # Outside classes can raise anything.
        reason = " ".join(str(error).split())[:200]
        raise AMDRestoreError(f"datasets.{phase}: {block['type']}: {type(error).__name__}: {reason}") from error
    vars(dataset).setdefault("opt", block)  # BasicSR reads the name of a dataset from there.
    left_out = getattr(dataset, "left_out", ())
    if left_out:
        count = f"{len(left_out)} of {len(left_out) + len(dataset)} files"
        get_root_logger().warning(f"datasets.{phase}: {count} are left out{_named(': ', left_out)}")
    if phase == "train":
        check_batch(item["gt"], images_of_process(opt))
    else:
        try_metrics(opt.get("val") or {}, phase, item)
    return dataset


def check_batch(crop: torch.Tensor, batch: int) -> None:
    """Refuse a batch that memory cannot hold even without the features of the network.

    Raises:
        AMDRestoreError: its tensors in float32 take more than what is free.
    """
    needed, free = _TENSORS * batch * crop.numel() * torch.float32.itemsize, psutil.virtual_memory().available
    if needed > free:
        size = f"{batch} crops of {crop.shape[-1]}x{crop.shape[-2]} take at least {needed / 2**30:.1f} GiB"
        raise AMDRestoreError(
            f"datasets.train.batch_size_per_gpu: {size}, {free / 2**30:.1f} GiB are free; lower it, and set "
            "train.accumulate for a large batch"
        )


def _paired_images(cls: Any, arguments: Mapping[str, Any], names: Mapping[str, Any]) -> Any:
    """Build BasicSR's class without unusable pairs, in the order of names."""
    options = build(arguments, PairedImageOptions)
    dataset = cls({**dataclasses.asdict(options), **names})
    if options.io_backend.type == "disk":
        least = max(options.gt_size or 0, 4 * names["scale"])
        dataset.paths, dataset.left_out = usable_pairs(dataset.paths, least, names["scale"])
    return dataset


def _named(label: str, files: Sequence[str]) -> str:
    """Return a label and the first three names; empty without names."""
    return f"{label}{', '.join(files[:3])}{' ...' if len(files) > 3 else ''}" if files else ""


def try_metrics(val: Mapping[str, Any], phase: str, item: Mapping[str, Any]) -> None:
    """Measure a clean validation image against itself, because metrics fail on small images.

    Raises:
        AMDRestoreError: one of ``val.metrics`` fails; the message names it and the image.
    """
    check_metrics(val)
    image = tensor2img([item["gt"]])
    for name, options in (val.get("metrics") or {}).items():
        try:
            measure(image, image, options, torch.device("cpu"))
        except AMDRestoreError:
            raise
        except Exception as error:  # Each metric raises different errors.
            reason = " ".join(str(error).split())[:120]
            raise AMDRestoreError(
                f"val.metrics.{name}: fails on an image of datasets.{phase}, {item.get('gt_path')} "
                f"({image.shape[1]}x{image.shape[0]}): {type(error).__name__}: {reason}"
            ) from error


def create_dataloaders(opt: dict[str, Any], logger: logging.Logger) -> tuple[Any, ...]:
    """Build loaders whose order is a function of progress; returns the same tuple as BasicSR's function.

    The whole run is one epoch of positions, starting at the resumed iteration.

    Raises:
        AMDRestoreError: no training data.
    """
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
        # The second-order degradation works image by image, which is slow on a GPU.
        is_random = degradation.get("type") == "second_order"
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
