"""Placement of names in a diagram, so that they do not cover each other or the points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]  # left, bottom, right, top; pixels
Label = tuple[str, float, float, str]  # text, x, y in data units, colour
Line = Sequence[tuple[float, float]]  # corners in data units

_DISTANCES = (7.0, 14.0, 24.0, 36.0, 50.0, 66.0)  # points between a mark and its name
_ANGLES = tuple(math.pi / 8 * number for number in (0, 8, 2, 14, 6, 10, 4, 12, 1, 15, 7, 9, 3, 13, 5, 11))
_MARK = 4.0  # half a mark's side, points
_LEADER = 16.0  # points; a farther name gets a line to its mark


def place_labels(axes: Axes, labels: Sequence[Label], lines: Sequence[Line] = (), size: float = 8.0) -> list[Any]:
    """Place each name where it covers least; distant names get a thin line to their point.

    Greedy, crowded points first. The layout of the figure must be final.

    Args:
        axes: with its points already drawn.
        labels: names, places and colours.
        lines: polylines that names should not cover.
        size: font size in points.

    Returns:
        The annotations, in the order of ``labels``.
    """
    figure: Any = axes.figure
    renderer, unit = figure.canvas.get_renderer(), figure.dpi / 72.0
    frame = axes.get_window_extent(renderer)
    marks = np.array([axes.transData.transform((x, y)) for _, x, y, _ in labels]).reshape(-1, 2)
    taken: list[Box] = [_box(x, y, _MARK * unit, _MARK * unit) for x, y in marks]
    for line in lines:
        corners = [axes.transData.transform(corner) for corner in line]
        taken += [_box(x, y, 2 * unit, 2 * unit) for x, y in _along(corners, 4 * unit)]
    found: dict[int, Any] = {}
    for index in sorted(range(len(labels)), key=lambda i: _room(marks, i)):
        text, x, y, color = labels[index]
        note = axes.annotate(
            text, (x, y), (0, 0), textcoords="offset points", fontsize=size, color=color, ha="center", va="center"
        )
        extent = note.get_window_extent(renderer)
        half = (extent.width / 2, extent.height / 2)
        offset = _best(tuple(marks[index]), half, taken, (frame.x0, frame.y0, frame.x1, frame.y1), unit)
        note.set_position((offset[0] / unit, offset[1] / unit))
        place = (marks[index][0] + offset[0], marks[index][1] + offset[1])
        taken.append(_box(*place, *half))
        gap = math.hypot(max(0.0, abs(offset[0]) - half[0]), max(0.0, abs(offset[1]) - half[1]))
        if gap > _LEADER * unit:
            end = (x, y)
            leader = {"arrowstyle": "-", "color": color, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 7, "shrinkB": 4}
            axes.annotate("", end, note.get_position(), textcoords="offset points", arrowprops=leader)
        found[index] = note
    return [found[index] for index in range(len(labels))]


def _best(mark: tuple[float, float], half: tuple[float, float], taken: Sequence[Box], frame: Box, unit: float) -> Any:
    """Return the offset from the mark in pixels with the least covered area; the nearest of equal ones."""
    best, least = (0.0, 0.0), math.inf
    for distance in _DISTANCES:
        for angle in _ANGLES:
            # The offset is the label's extent in that direction plus the distance.
            across, up = math.cos(angle), math.sin(angle)
            offset = (across * (half[0] + distance * unit), up * (half[1] + distance * unit))
            box = _box(mark[0] + offset[0], mark[1] + offset[1], *half)
            cost = sum(_overlap(box, other) for other in taken) + 4.0 * _outside(box, frame)
            cost += 0.02 * distance * half[1]
            if cost < least:
                best, least = offset, cost
    return best


def _along(corners: Sequence[NDArray[np.float64]], step: float) -> list[tuple[float, float]]:
    """Return points along a polyline, about ``step`` pixels apart."""
    found = []
    for start, end in itertools.pairwise(corners):
        count = max(1, int(np.hypot(*(end - start)) / step))
        found += [tuple(start + (end - start) * (number + 0.5) / count) for number in range(count)]
    return found


def _room(marks: NDArray[np.float64], index: int) -> float:
    """Return the distance to the nearest other mark in pixels."""
    others = np.delete(marks, index, axis=0)
    return float(np.hypot(*(others - marks[index]).T).min()) if len(others) else 0.0


def _box(x: float, y: float, half_width: float, half_height: float) -> Box:
    return x - half_width, y - half_height, x + half_width, y + half_height


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _outside(box: Box, frame: Box) -> float:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return area - _overlap(box, frame)
