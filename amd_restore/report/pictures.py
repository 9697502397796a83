"""Image panels and zone maps of runs, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from amd_restore.benchmark.images import Image, read_rgb
from amd_restore.errors import AMDRestoreError
from amd_restore.report.runs import ReportRun

CELL = 256  # side of a cell in validation panels
# Ends of the colour scale: worse and better than the group. Blue and orange differ for colour-blind people, too.
FORBIDDEN, GOOD = (230, 85, 0), (0, 105, 200)
_OPACITY = 0.55


@dataclass(frozen=True)
class CaptionedImage:
    """Image with a caption."""

    uri: str
    caption: str


def jpeg_uri(image: Image, quality: int = 88) -> str:
    """Return a ``data:`` URI of an image (H, W, 3)."""
    out = io.BytesIO()
    PILImage.fromarray(image).save(out, "JPEG", quality=quality, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def compare_panels(runs: Sequence[ReportRun]) -> dict[str, list[list[CaptionedImage]]]:
    """Place the newest validation panels of several runs side by side.

    Args:
        runs: one per arm.

    Returns:
        Validation set -> rows, one per image: base, every run at every number of steps, ground truth.

    Raises:
        AMDRestoreError: a panel cannot be read.
    """
    found: dict[str, list[tuple[ReportRun, NDArray[np.uint8]]]] = {}
    for run in runs:
        for name, path in run.panels().items():
            cells = _cells(path)
            # A panel with other numbers of steps than the option file cannot be labelled.
            if cells.shape[1] == len(run.validation_steps) + 2:
                found.setdefault(name, []).append((run, cells))
    result = {}
    for name, panels in found.items():
        count = min(len(cells) for _, cells in panels)
        first = panels[0][1]
        rows = []
        for index in range(count):
            row = [CaptionedImage(jpeg_uri(first[index, 0]), "input, bicubic")]
            for run, cells in panels:
                for column, steps in enumerate(run.validation_steps, 1):
                    caption = f"{run.arm}, {steps} step{'s' if steps > 1 else ''}"
                    row.append(CaptionedImage(jpeg_uri(cells[index, column]), caption))
            rows.append([*row, CaptionedImage(jpeg_uri(first[index, -1]), "ground truth")])
        result[name] = rows
    return result


def zone_pictures(run: ReportRun, limit: int = 4) -> list[list[CaptionedImage]]:
    """Draw the newest zone maps of a run over its samples.

    Args:
        run: training run.
        limit: largest number of images; one for whole-image advantages, whose maps are constant.

    Returns:
        Per image: input, each sample with its map, ground truth. Empty without maps.

    Raises:
        AMDRestoreError: the file cannot be read.
    """
    path = run.zone_maps()
    if path is None:
        return []
    try:
        with np.load(path) as file:
            lq, sr, gt, advantage = (file[name] for name in ("lq", "sr", "gt", "advantage"))
    except (OSError, KeyError, ValueError) as error:
        raise AMDRestoreError(f"{path}: no file of zone maps, or damaged ({error})") from error
    spatial = bool((np.ptp(advantage, axis=(2, 3)) > 1e-6).any())
    rows = []
    for index in range(min(len(lq), limit if spatial else 1)):
        height, width = gt[index].shape[:2]
        factor = (height // lq[index].shape[0], width // lq[index].shape[1])
        row = [CaptionedImage(jpeg_uri(lq[index].repeat(factor[0], axis=0).repeat(factor[1], axis=1)), "input")]
        for sample, (image, scores) in enumerate(zip(sr[index], advantage[index], strict=True), 1):
            share = float((scores < 0).mean())
            text = f"{share:.0%} in the zone" if spatial else f"advantage {scores.flat[0]:+.2f}"
            row.append(CaptionedImage(jpeg_uri(overlay(image, scores)), f"sample {sample}: {text}"))
        rows.append([*row, CaptionedImage(jpeg_uri(gt[index]), "ground truth")])
    return rows


def overlay(image: Image, advantage: NDArray[np.floating]) -> Image:
    """Draw a map (h, w) in [-1, 1] over ``image`` (H, W, 3) in gray; stronger colours are further from 0."""
    height, width = image.shape[:2]
    rows = np.arange(height) * advantage.shape[0] // height
    columns = np.arange(width) * advantage.shape[1] // width
    scores = np.clip(advantage[rows][:, columns], -1.0, 1.0).astype(np.float64)[..., None]
    gray = (image @ np.array([0.299, 0.587, 0.114]))[..., None].repeat(3, axis=2)
    color = np.where(scores < 0, np.array(FORBIDDEN), np.array(GOOD))
    opacity = _OPACITY * np.abs(scores)
    return (gray * (1 - opacity) + color * opacity).round().astype(np.uint8)


def _cells(path: Path) -> NDArray[np.uint8]:
    """Split a panel into (rows, columns, CELL, CELL, 3)."""
    image = read_rgb(path)
    rows, columns = (side // CELL for side in image.shape[:2])
    image = image[: rows * CELL, : columns * CELL]
    return image.reshape(rows, CELL, columns, CELL, 3).swapaxes(1, 2)
