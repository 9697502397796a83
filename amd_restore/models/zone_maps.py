"""Maps of Forbidden Zones in real images: samples of one image and their advantages, for the report."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amd_restore.atomic import write_atomically
from amd_restore.models.rollout import Draw
from amd_restore.registry import import_basicsr

import_basicsr()

from basicsr.utils import get_root_logger  # noqa: E402

SIDE = 64  # side of the square in lq pixels, or more where a reward needs it


def side_of_squares(model: Any, images: Sequence[Mapping[str, Any]]) -> int:
    """Return one side, in lq pixels, for all images: a stack has one, and the rewards have smallest images."""
    scale, patch = model.run.scale, model.codec.lq_patch
    needed = max((reward.min_size for reward in model.reward.rewards), default=1)
    wanted = -(-max(SIDE, -(-needed // scale)) // patch) * patch
    side = min([wanted, *(min(data["gt"].shape[2:]) // scale for data in images)]) // patch * patch
    return side if side * scale >= needed else 0


def _as_bytes(images: Tensor) -> np.ndarray[Any, Any]:
    """Convert (..., 3, H, W) in [0, 1] to uint8 (..., H, W, 3)."""
    array: np.ndarray[Any, Any] = (images.clamp(0, 1) * 255).round().byte().movedim(-3, -1).cpu().numpy()
    return array


@torch.no_grad()
def save_zone_maps(model: Any, dataloader: Any, current_iter: int) -> None:
    """Write ``visualization/zones/zones_ITER.npz`` with ``lq``, ``sr``, ``gt`` (uint8) and ``advantage``.

    The central square of each of the first ``val.panels`` images is restored in one step, once per member of a group;
    there are none where one of these images is too small for the rewards.
    ``advantage`` (N, G, h, w) is a constant map if the run is not spatial. The rewards' running statistics do not
    change.

    Args:
        model: an :class:`~amd_restore.models.amd_model.AMDModel`.
        dataloader: validation images, one per batch.
        current_iter: iteration, for the file name.
    """
    size, scale = model.run.distill.group_size, model.run.scale
    images = list(islice(dataloader, model.run.val.panels))
    side = side_of_squares(model, images)
    if images and not side:
        get_root_logger().info("No zone maps: an image is smaller than the rewards need")
        return
    shown: dict[str, list[Any]] = {"lq": [], "sr": [], "gt": [], "advantage": []}
    was_training = model.reward.training
    model.reward.eval()
    for data in images:
        model.feed_data(data)
        height, width = model.lq.shape[2:]
        top, left = (height - side) // 2, (width - side) // 2
        lq = model.lq[:, :, top : top + side, left : left + side].repeat(size, 1, 1, 1)
        rows, columns = (slice(scale * start, scale * (start + side)) for start in (top, left))
        gt = model.gt[:, :, rows, columns].repeat(size, 1, 1, 1)
        sr = model.restore(lq, 1)
        reference = None
        if model.run.distill.advantage == "teacher":
            noise, steps = model.randn(model.codec.latent_shape(lq)), torch.ones(len(lq), dtype=torch.long)
            cond = model.codec.condition(lq)
            draw = Draw(lq=lq, gt=gt, cond=cond, noise=noise, steps=steps, stops=steps)
            reference = model.teacher_images(draw)
        advantage = model.advantage(sr, gt, lq, reference)[0]
        if advantage.ndim == 1:
            advantage = advantage.reshape(-1, 1, 1, 1).expand(-1, 1, *model.codec.latent_shape(lq)[2:])
        shown["lq"].append(_as_bytes(lq[0]))
        shown["gt"].append(_as_bytes(gt[0]))
        shown["sr"].append(_as_bytes(sr))
        shown["advantage"].append(advantage[:, 0].float().cpu().numpy())
    model.reward.train(was_training)
    if shown["lq"]:
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {key: np.stack(values) for key, values in shown.items()}
        np.savez_compressed(buffer, **arrays)
        path = model.folders.visualization / "zones" / f"zones_{current_iter:07d}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
