"""Reading, shrinking and writing photographs, checksums and tables, for the scripts of this folder."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from amd_restore.atomic import write_atomically
from amd_restore.errors import AMDRestoreError


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def decode(content: bytes, name: str) -> np.ndarray:
    """Decode an image file.

    Args:
        content: The file's bytes. Transparency is dropped, grey becomes three equal channels, EXIF orientation
            is applied, 16 bits become 8.
        name: What to call the image in an error.

    Returns:
        uint8, (H, W, 3), BGR as OpenCV has it.

    Raises:
        AMDRestoreError: Not an image, or a damaged one.
    """
    try:
        # OpenCV 4 takes a truncated JPEG for a half grey picture; Pillow does not.
        with Image.open(io.BytesIO(content)) as check:
            check.load()
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = _first_line(error)
        raise AMDRestoreError(f"{name}: not a readable image ({reason}); replace or remove it") from error
    if image is None:
        raise AMDRestoreError(f"{name}: not an image that OpenCV can read; convert or remove it")
    return image


def _first_line(error: Exception) -> str:
    # Pillow names the buffer it read from, which tells a user nothing.
    return (str(error).splitlines() or ["damaged"])[0].split(" <_io")[0].removesuffix(" file")


def read_image(path: Path) -> np.ndarray:
    """`decode` a file: uint8, (H, W, 3), BGR."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AMDRestoreError(f"{path}: cannot be read ({error.strerror}); check its rights") from error
    return decode(content, str(path))


def write_png(path: Path, image: np.ndarray) -> str:
    """Write an image losslessly, complete or not at all.

    Args:
        path: Target; its folder is made.
        image: uint8, (H, W, 3), BGR.

    Returns:
        SHA-256 of the written file.
    """
    done, buffer = cv2.imencode(".png", image)
    if not done:
        raise AMDRestoreError(f"{path}: OpenCV could not encode an image of shape {image.shape}")
    content = buffer.tobytes()
    write_atomically(path, content)
    return sha256(content)


def shrink(image: np.ndarray, factor: float) -> np.ndarray:
    """Downscale by area averaging, which at a factor of 2 is the mean of 2x2 blocks.

    Args:
        image: uint8, (H, W, 3).
        factor: At least 1; 1 returns the image as it is.

    Returns:
        uint8, (floor(H / factor), floor(W / factor), 3).
    """
    if factor <= 1.0:
        return image
    height, width = image.shape[:2]
    if factor == 2.0:
        image = image[: height // 2 * 2, : width // 2 * 2]
    # A hair above the quotient, or 768 / 1.5 could come out one pixel short.
    size = (int(width / factor + 1e-6), int(height / factor + 1e-6))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def read_tsv(path: Path, required: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read a tab-separated table with a header line.

    Raises:
        AMDRestoreError: Missing file, or one without the required columns.
    """
    if not path.is_file():
        raise AMDRestoreError(f"{path}: no such file")
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [name for name in required if name not in (reader.fieldnames or ())]
        if missing:
            raise AMDRestoreError(f"{path}: lacks the column(s) {', '.join(missing)}")
        return [dict(row) for row in reader]


def write_tsv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a tab-separated table sorted by its first column; tabs and line ends in values become blanks."""
    ordered = sorted(rows, key=lambda row: str(row[columns[0]]))
    lines = ["\t".join(columns)]
    lines += ["\t".join(" ".join(str(row[name]).split()) for name in columns) for row in ordered]
    write_atomically(path, ("\n".join(lines) + "\n").encode())
