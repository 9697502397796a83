"""Validation inside training: metrics at several numbers of steps, and sample panels."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amd_restore.errors import AMDRestoreError
from amd_restore.options.basicsr import MetricOptions, ValOptions
from amd_restore.options.fields import defaults
from amd_restore.registry import did_you_mean, import_basicsr
from amd_restore.rewards.lpips_net import backbone_file, build_lpips

import_basicsr()

from basicsr.metrics import calculate_metric  # noqa: E402
from basicsr.utils import get_root_logger, imwrite, tensor2img  # noqa: E402
from basicsr.utils.registry import METRIC_REGISTRY  # noqa: E402

LOWER_IS_BETTER = ("lpips", "niqe")


def check_metrics(val: Mapping[str, Any]) -> None:
    """Check metrics and their weights before training instead of at the first validation.

    Raises:
        AMDRestoreError: an unknown metric, or a missing file; the message says how to get it.
    """
    for name, options in (val.get("metrics") or {}).items():
        if options["type"] == "lpips":
            backbone_file(options.get("net", "alex"))
        elif options["type"] not in METRIC_REGISTRY:
            hint = did_you_mean(options["type"], METRIC_REGISTRY.keys())
            raise AMDRestoreError(f"val.metrics.{name}: unknown type '{options['type']}'; {hint}")


def metrics_of(val: ValOptions) -> dict[str, dict[str, Any]]:
    """Return ``val.metrics`` for BasicSR: the type, and values that differ from the defaults."""
    standard = defaults(MetricOptions)
    return {
        name: {key: value for key, value in asdict(options).items() if key not in standard or value != standard[key]}
        for name, options in (val.metrics or {}).items()
    }


def validate(model: Any, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool) -> dict[str, float]:
    """Log mean metrics over a loader and return them as ``{"psnr@1": ...}`` (metric @ number of steps).

    ``val.metrics`` maps names to BasicSR metric options; ``type: lpips`` (with ``net``) is ours, on RGB in [0, 1]
    after rounding to 8 bits.

    Args:
        model: a :class:`~amd_restore.models.restoration_model.RestorationModel`.
        dataloader: batches of one image with ``lq``, ``gt`` and ``lq_path``.
        current_iter: iteration, for file names and curves; in a test the name of the run.
        tb_logger: TensorBoard writer or None.
        save_img: write every restored image.
    """
    val, metrics = model.run.val, metrics_of(model.run.val)
    name = dataloader.dataset.opt.get("name", "val")
    folder = model.folders.visualization / name
    sums: dict[str, list[float]] = defaultdict(list)
    rows: list[np.ndarray] = []
    for index, data in enumerate(dataloader):
        model.save_if_told_to_stop()
        outputs, gt, values = _restored(model, data, metrics)
        for key, value in values.items():
            sums[key].append(value)
        for steps, sr in outputs.items() if save_img else ():
            stem = Path(data["lq_path"][0]).stem
            imwrite(sr, str(folder / f"{current_iter}" / f"{stem}_{steps}step.png"))
        if index < val.panels:
            base = tensor2img([model.codec.upsample(model.lq).clamp(0, 1).cpu()])
            rows.append(np.concatenate([_crop(image) for image in (base, *outputs.values(), gt)], axis=1))
    results = {key: float(np.mean(values)) for key, values in sums.items()}
    if rows:
        panel = np.concatenate(rows, axis=0)
        label = f"{current_iter:07d}" if isinstance(current_iter, int) else str(current_iter)
        imwrite(panel, str(folder / f"panel_{label}.png"))
        if tb_logger:
            tb_logger.add_image(f"panel/{name}", panel[:, :, ::-1], current_iter, dataformats="HWC")
    _report(model, name, results, current_iter, tb_logger)
    return results


def cost_name(dataloader: Any) -> str:
    """Return the key of this validation's time."""
    return f"validation {dataloader.dataset.opt.get('name', 'val')}"


def first_image(model: Any, dataloader: Any) -> None:
    """Restore and measure one image and discard the results, to measure the time."""
    _restored(model, next(iter(dataloader)), metrics_of(model.run.val))


def _restored(
    model: Any, data: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[int, np.ndarray], np.ndarray, dict[str, float]]:
    """Return restored images by number of steps, ground truth and metrics of a batch of one image."""
    val = model.run.val
    with torch.no_grad():
        model.feed_data(data)
    gt = tensor2img([data["gt"]])
    outputs: dict[int, np.ndarray] = {}
    values: dict[str, float] = {}
    for steps in val.num_steps:
        restored = model.restore(model.lq, steps, seed=0, guidance_scale=val.guidance_scale)
        outputs[steps] = tensor2img([restored.cpu()])
        for metric, options in metrics.items():
            values[f"{metric}@{steps}"] = measure(outputs[steps], gt, options, model.device)
    return outputs, gt, values


def measure(sr: np.ndarray, gt: np.ndarray, options: Mapping[str, Any], device: torch.device) -> float:
    """Measure one metric of ``val.metrics`` on BGR uint8 images (H, W, 3)."""
    # BasicSR has no default for crop_border.
    options = {"crop_border": 0, **options}
    if options["type"] == "lpips":
        with torch.no_grad():
            return float(_lpips(options.get("net", "alex"), str(device))(_rgb(sr, device), _rgb(gt, device)))
    return float(calculate_metric({"img": sr, "img2": gt}, options))


@functools.lru_cache
def _lpips(net: str, device: str) -> torch.nn.Module:
    return build_lpips(net, device)


def _rgb(image: np.ndarray, device: torch.device) -> Tensor:
    """Convert BGR uint8 (H, W, 3) to RGB (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)[None].float().div(255).to(device)


def _crop(image: np.ndarray, size: int = 256) -> np.ndarray:
    top, left = max(0, (image.shape[0] - size) // 2), max(0, (image.shape[1] - size) // 2)
    out = np.zeros((size, size, 3), np.uint8)
    crop = image[top : top + size, left : left + size]
    out[: crop.shape[0], : crop.shape[1]] = crop
    return out


def _report(model: Any, name: str, results: dict[str, float], current_iter: int | str, tb_logger: Any) -> None:
    best = model.__dict__.setdefault("best_results", {}).setdefault(name, {})
    parts = []
    for key, value in results.items():
        sign = -1.0 if key.split("@")[0].startswith(LOWER_IS_BETTER) else 1.0
        if key not in best or sign * value > sign * best[key][0]:
            best[key] = (value, current_iter)
        parts.append(f"{key} {value:.4f} (best {best[key][0]:.4f} at {best[key][1]})")
        if tb_logger:
            tb_logger.add_scalar(f"metrics/{name}/{key}", value, current_iter)
    get_root_logger().info(f"Validation {name}, iteration {current_iter}: " + "; ".join(parts))
