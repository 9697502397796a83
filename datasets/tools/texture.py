"""How much texture a crop has, and where to crop: flat crops teach a restoration network little."""

from __future__ import annotations

import cv2
import numpy as np


def gradient_energy(image: np.ndarray) -> np.ndarray:
    """Squared gradient of the luma by central differences.

    Args:
        image: uint8, (H, W, 3), BGR.

    Returns:
        float32, (H, W), in squared grey levels per pixel.
    """
    luma = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
    horizontal = cv2.filter2D(luma, -1, np.array([[-0.5, 0.0, 0.5]], np.float32))
    vertical = cv2.filter2D(luma, -1, np.array([[-0.5], [0.0], [0.5]], np.float32))
    return horizontal**2 + vertical**2


def crop_energy(image: np.ndarray) -> float:
    """Mean of `gradient_energy` over an image."""
    return float(gradient_energy(image).mean())


def grid_offsets(length: int, size: int, step: int, thresh: int = 0) -> list[int]:
    """Offsets of crops along one side, as BasicSR's ``extract_subimages`` places them.

    Args:
        length: Side of the image in pixels.
        size: Side of a crop.
        step: Distance between crops.
        thresh: A last crop, flush with the border, is added where more than this many pixels are left over.

    Returns:
        Increasing offsets; none if the image is smaller than a crop.
    """
    if length < size:
        return []
    offsets = list(range(0, length - size + 1, step))
    if length - (offsets[-1] + size) > thresh:
        offsets.append(length - size)
    return offsets


def most_textured_crop(image: np.ndarray, size: int, step: int = 16) -> np.ndarray:
    """The crop with the most gradient energy on a grid of positions.

    Args:
        image: uint8, (H, W, 3), both sides at least `size`.
        size: Side of the crop in pixels.
        step: Grid distance in pixels.

    Returns:
        uint8, (size, size, 3).
    """
    total = cv2.integral(gradient_energy(image), sdepth=cv2.CV_64F)
    rows = grid_offsets(image.shape[0], size, step)
    columns = grid_offsets(image.shape[1], size, step)
    top, left = np.asarray(rows)[:, None], np.asarray(columns)[None, :]
    bottom, right = top + size, left + size
    energy = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    best_row, best_column = np.unravel_index(int(energy.argmax()), energy.shape)
    y, x = rows[int(best_row)], columns[int(best_column)]
    return image[y : y + size, x : x + size]
