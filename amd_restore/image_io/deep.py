"""More than 8 bits per channel, which Pillow decodes as 8 or not at all: 16-bit PNG and TIFF, float TIFF."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import TiffImagePlugin

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io.directories import HEIGHT, PHOTOMETRIC, WIDTH, is_big, without_orientation
from amd_restore.image_io.picture import Pixels, damaged
from amd_restore.image_io.transparency import unmultiplied

Tags = TiffImagePlugin.ImageFileDirectory_v2
BITS, COMPRESSION = 258, 259
STRIP_OFFSETS, SAMPLES, STRIP_COUNTS, PLANAR, PREDICTOR = 273, 277, 279, 284, 317
TILE_OFFSETS, TILE_COUNTS, EXTRA_SAMPLES, SAMPLE_FORMAT, ICC_PROFILE = 324, 325, 338, 339, 34675
_UNSIGNED, _FLOAT = 1, 3
_ASSOCIATED, _UNASSOCIATED = 1, 2  # alpha, multiplied into the colours or not
_NONE, _DEFLATE, _WEBP = (1,), (8, 32946), 50001
_GENERAL = (*_NONE, 5, *_DEFLATE, 32773)  # none, LZW, deflate, PackBits: none packs more than about 1400 to one
_HIGHEST_RATIO = 1500
_MARGIN = 0.1  # a float picture may overshoot [0, 1] by this, as sharpened ones do
_LAYOUT = "16-bit image of an unusual layout; store it as plain RGB"


def read_tags(data: bytes) -> Tags:
    """First directory of a TIFF file, which Pillow need not be able to decode.

    On damaged files, whatever Pillow raises.
    """
    tags = Tags(data[:16] if is_big(data) else data[:8])
    file = io.BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    return tags


def is_deep_tiff(tags: Tags) -> bool:
    """Whether these are gray or RGB samples of more than 8 bits, 12-bit gray aside, which Pillow reads whole.

    Raises:
        AMDRestoreError: of a kind that nothing here can read.
    """
    bits, kinds = set(tags.get(BITS, (1,))), set(tags.get(SAMPLE_FORMAT, (_UNSIGNED,)))
    if tags.get(PHOTOMETRIC) not in (0, 1, 2) or (max(bits) <= 12 and kinds == {_UNSIGNED}):
        return False
    if (bits, kinds) in (({16}, {_UNSIGNED}), ({32}, {_FLOAT}), ({64}, {_FLOAT})):
        return True
    kind = {_UNSIGNED: "unsigned", 2: "signed", _FLOAT: "float"}.get(max(kinds), "unusual")
    samples = f"{max(bits)}-bit {kind} TIFF samples"
    raise AMDRestoreError(f"{samples} are not supported; convert to 8 or 16 bits, or to 32-bit float in [0, 1]")


def unsupported(tags: Tags) -> str:
    """What to say about a TIFF that nothing here can read, though its directory is whole."""
    names = {2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "ICC Lab", 10: "ITU Lab"}
    kind = names.get(tags.get(PHOTOMETRIC, 1), "gray" if tags.get(PHOTOMETRIC, 1) < 2 else "unusual")
    bits, packing = "+".join(map(str, tags.get(BITS, (1,)))), tags.get(COMPRESSION, 1)
    return f"a TIFF of {kind} with {bits} bits, compression {packing}, cannot be read; store it as plain RGB"


def decode_deep_tiff(data: bytes, tags: Tags) -> Pixels:
    """(H, W, C) uint16, or float32 in [0, 1], as stored, orientation not applied.

    Raises:
        AMDRestoreError: damaged, of an unusual layout, or float samples outside [0, 1] by more than 0.1 (what
            little is outside is cut off).
    """
    check_strips(data, tags)
    channels = tags.get(SAMPLES, 1)
    extra = tags.get(EXTRA_SAMPLES, ())
    if channels == 2 or tags.get(PLANAR, 1) != 1:  # OpenCV takes planes for pixels
        pixels = _decode_strips(data, tags)
    elif channels in (1, 3, 4):
        pixels = decode_cv2(without_orientation(data), channels)
    else:
        raise AMDRestoreError(_LAYOUT)
    if pixels.shape != (tags[HEIGHT], tags[WIDTH], channels):
        raise AMDRestoreError(_LAYOUT)
    if pixels.dtype.kind == "f":
        pixels = _checked_float(pixels)
    if tags.get(PHOTOMETRIC) == 0:  # white is zero
        colours = slice(0, 1)
        pixels[..., colours] = (1.0 if pixels.dtype.kind == "f" else 65535) - pixels[..., colours]
    if channels in (2, 4):
        if not extra or extra[0] not in (_ASSOCIATED, _UNASSOCIATED):
            pixels = pixels[..., :-1]  # a mask, or something else that is no transparency
        elif extra[0] == _ASSOCIATED:
            pixels = unmultiplied(pixels)
    return pixels


def decode_cv2(data: bytes, channels: int) -> Pixels:
    """(H, W, ``channels``) by OpenCV, in RGB order.

    Raises:
        AMDRestoreError: damaged, or it has other channels.
    """
    import cv2

    with quiet_cv2():
        try:
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise damaged(MemoryError() if error.code == cv2.Error.StsNoMem else error.err) from error
    if decoded is None:
        raise damaged("or packed in a way that OpenCV does not read")
    decoded = np.atleast_3d(decoded)
    order = {1: [0], 2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    if decoded.shape[2] <= max(order) or (channels == 1 and decoded.shape[2] > 1):
        raise AMDRestoreError(_LAYOUT)
    return np.ascontiguousarray(decoded[:, :, order])


def decode_deep_avif(data: bytes, channels: int) -> Pixels | None:
    """(H, W, ``channels``) uint16 of an AVIF of 10 or 12 bits; None for 8 bits, or if OpenCV was built without AVIF."""
    flags = data[data.find(b"av1C") + 6] if b"av1C" in data[:-6] else 0  # AV1 in ISO-BMFF, 2.3
    if not flags & 0x40:
        return None
    highest = 4095 if flags & 0x20 else 1023
    try:
        pixels = decode_cv2(data, max(channels, 3))[..., : 1 if channels == 1 else None]
    except AMDRestoreError:
        return None
    return ((pixels.astype(np.uint32) * 65535 + highest // 2) // highest).astype(np.uint16)


def check_strips(data: bytes, tags: Tags) -> None:
    """Refuse a TIFF whose strips or tiles reach beyond its end, or cannot hold so many pixels.

    libtiff would say the one on stderr, past everyone, and would fill memory for the other first.

    Raises:
        AMDRestoreError: it is truncated or damaged, or packed as WebP, for which libtiff is not built.
    """
    if tags.get(COMPRESSION) == _WEBP:
        raise AMDRestoreError(unsupported(tags))
    stored = 0
    for offsets, counts in ((STRIP_OFFSETS, STRIP_COUNTS), (TILE_OFFSETS, TILE_COUNTS)):
        for offset, count in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False):
            stored += count
            if offset + count > len(data):
                raise damaged(f"{offset + count - len(data)} bytes are missing at its end")
    bits = tags[WIDTH] * tags[HEIGHT] * sum(tags.get(BITS, (1,)))
    if tags.get(COMPRESSION, 1) in _GENERAL and bits > 8 * stored * _HIGHEST_RATIO:
        raise damaged(f"{stored} bytes cannot hold {tags[WIDTH]}x{tags[HEIGHT]} pixels")


@contextmanager
def quiet_cv2() -> Iterator[None]:
    """Keep OpenCV from writing to stderr what is raised or returned anyway."""
    import cv2

    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _checked_float(pixels: Pixels) -> Pixels:
    low, high = float(pixels.min()), float(pixels.max())
    if not (-_MARGIN <= low and high <= 1 + _MARGIN):  # also catches NaN
        raise AMDRestoreError(f"float samples must lie in [0, 1], these span {low:.4g} to {high:.4g}; scale them")
    return pixels.astype(np.float32).clip(0, 1)


def _decode_strips(data: bytes, tags: Tags) -> Pixels:
    """Plain or deflated strips, for what neither Pillow nor OpenCV reads: gray with alpha, one plane per channel."""
    packing, predictor = tags.get(COMPRESSION, 1), tags.get(PREDICTOR, 1)
    if TILE_OFFSETS in tags or packing not in _NONE + _DEFLATE or predictor not in (1, 2):
        raise AMDRestoreError(_LAYOUT)
    height, width, channels = tags[HEIGHT], tags[WIDTH], tags[SAMPLES]
    kind = f"{'f' if max(tags.get(SAMPLE_FORMAT, (1,))) == _FLOAT else 'u'}{tags[BITS][0] // 8}"
    order = "<" if data[:2] == b"II" else ">"
    size = height * width * channels * int(kind[1])
    strips = bytearray()
    for offset, count in zip(tags.get(STRIP_OFFSETS, ()), tags.get(STRIP_COUNTS, ()), strict=False):
        strip = data[offset : offset + count]
        try:
            strips += strip if packing in _NONE else zlib.decompressobj().decompress(strip, size - len(strips) + 1)
        except zlib.error as error:
            raise damaged(error) from error
    if len(strips) != size:
        raise damaged("strips are too short")
    separate = tags.get(PLANAR, 1) != 1
    stored = (channels, height, width) if separate else (height, width, channels)
    pixels: Any = np.frombuffer(strips, order + kind).reshape(stored).astype(kind)
    if separate:
        pixels = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return pixels.cumsum(axis=1, dtype=kind) if predictor == 2 else pixels
