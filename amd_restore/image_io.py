"""Image files in and out, without losing what they carry: depth, gray, alpha, orientation, ICC profile, EXIF.

Pillow reads and checks every file (OpenCV takes a truncated JPEG for a half gray picture) and holds the
metadata; OpenCV takes what Pillow cannot: 16 bits per channel in colour.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from amd_restore.atomic import user_error, write_atomically
from amd_restore.errors import AMDRestoreError

_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
SUFFIXES = tuple(_FORMATS)
_READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
_ENCODING: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 4},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "BMP": {},
}
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# EXIF tags that still hold for a larger picture. The others describe how the file was stored (TIFF keeps both
# in one table), show the small picture (thumbnail), or point to bytes by position (maker notes).
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_EXIF_KEPT = (0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298)
_EXIF_DROPPED = (0x927C, 0xA005)
_EXIF_WIDTH, _EXIF_HEIGHT, _ORIENTATION = 0xA002, 0xA003, 0x0112


@dataclass(frozen=True)
class Picture:
    """An image file in memory, upright.

    Args:
        pixels: (H, W, C) uint8 or uint16; C is 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha.
        icc: colour profile that belongs to ``pixels``.
        exif: EXIF block; it names no orientation, for that has been applied.
    """

    pixels: np.ndarray[Any, Any]
    icc: bytes | None = None
    exif: bytes | None = None

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.pixels.shape[2] in (2, 4)


def read_image(path: str | Path) -> Picture:
    """Read PNG, JPEG, WebP, TIFF or BMP; the content decides, not the name.

    Palettes become RGB, CMYK becomes RGB.

    Raises:
        AMDRestoreError: the file is missing, empty, truncated, no image, an animation or of an unknown depth.
    """
    with user_error(f"{path}: cannot be read", "check the path and its permissions"):
        data = Path(path).read_bytes()
    if not data:
        raise AMDRestoreError(f"{path}: the file is empty (0 bytes); copy or download it again")
    try:
        return decode(data)
    except AMDRestoreError as error:
        raise AMDRestoreError(f"{path}: {error}") from error


def write_image(path: str | Path, picture: Picture) -> None:
    """Write ``picture`` in the format of the suffix of ``path``, whole or not at all.

    Errors as :func:`encode`, and when the file cannot be written.
    """
    path = Path(path)
    try:
        data = encode(picture, path.suffix)
    except AMDRestoreError as error:
        raise AMDRestoreError(f"{path}: {error}") from error
    write_atomically(path, data)


def decode(data: bytes) -> Picture:
    """Picture from the bytes of a file; errors as :func:`read_image`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata, and sizes that are large but allowed
        try:
            image = Image.open(io.BytesIO(data), formats=_READABLE)
        except Image.DecompressionBombError as error:
            raise AMDRestoreError(f"{error}; cut it into smaller images") from error
        except Exception as error:  # each decoder has its own kinds of errors
            reason = "no image file, or a broken one; PNG, JPEG, WebP, TIFF and BMP can be read"
            raise AMDRestoreError(reason) from error
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # MPO: a phone's JPEG with a second, small picture
            raise AMDRestoreError(f"holds {frames} pages or frames; split it into single images first")
        try:
            image.load()
        except Exception as error:  # each decoder has its own kinds of errors
            raise AMDRestoreError(f"the image data are truncated or damaged ({error}); copy it again") from error
        pixels = _pixels(image, data)
        exif, orientation = _kept_exif(image)
    profile = image.info.get("icc_profile") or b""
    space = b"GRAY" if pixels.shape[2] < 3 else b"RGB "
    icc = profile if profile[16:20] == space else None  # the profile of a CMYK file fits no more
    return Picture(_upright(pixels, orientation), icc, exif)


def encode(picture: Picture, suffix: str) -> bytes:
    """Bytes of a file in the format of ``suffix``.

    16 bits are kept by PNG and TIFF and rounded to 8 by the others. JPEG is written at quality 95 without
    chroma subsampling, WebP at quality 95.

    Raises:
        AMDRestoreError: unknown suffix; alpha in a JPEG; more pixels than the format can hold.
    """
    kind = _FORMATS.get(suffix.lower())
    if kind is None:
        raise AMDRestoreError(f"cannot write '{suffix}' files; use one of {', '.join(SUFFIXES)}")
    if kind == "JPEG" and picture.has_alpha:
        raise AMDRestoreError("JPEG has no transparency; write png, webp or tiff")
    pixels = np.ascontiguousarray(picture.pixels)
    if pixels.dtype == np.uint16 and kind not in ("PNG", "TIFF"):
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype == np.uint16 or (kind == "BMP" and picture.has_alpha):
        return _encode_cv2(pixels, kind, picture)
    channels = pixels.shape[2]
    options = dict(_ENCODING[kind])
    if kind != "BMP":
        # WebP knows no gray, so a gray profile would describe pixels that are not there.
        options["icc_profile"] = None if kind == "WEBP" and channels < 3 else picture.icc
        options["exif"] = _resized_exif(picture) or b""
    if kind == "TIFF" and picture.exif:
        del options["compression"]  # libtiff, which compresses, cannot write EXIF tables through Pillow
    out = io.BytesIO()
    try:
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels, _MODES[channels]).save(out, kind, **options)
    except (OSError, ValueError, struct.error) as error:
        height, width = pixels.shape[:2]
        raise AMDRestoreError(f"{kind} cannot hold {width}x{height} pixels ({error}); write png or tiff") from error
    return out.getvalue()


def fill_transparent(colour: np.ndarray[Any, Any], alpha: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Give fully transparent pixels the colour of their visible surroundings.

    What is stored there is often black or leftover, and would bleed into the visible edge when enlarged.

    Args:
        colour: (H, W, C) float32 in [0, 1].
        alpha: (H, W, 1) float32 in [0, 1].

    Returns:
        (H, W, C); unchanged where alpha is above zero, or when nothing is visible at all.
    """
    if not alpha.any() or alpha.all():
        return colour
    filled = _pull_push(colour * alpha, alpha)
    return np.where(alpha > 0, colour, filled)


def _pull_push(premultiplied: np.ndarray[Any, Any], weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    # Average what is visible at half the size, fill what is still unknown from there (Gortler et al. 1996).
    height, width, channels = premultiplied.shape
    mean = premultiplied / np.maximum(weight, 1e-6)
    if weight.all() or max(height, width) == 1:
        return mean
    half = ((width + 1) // 2, (height + 1) // 2)
    pulled = cv2.resize(np.dstack([premultiplied, weight]), half, interpolation=cv2.INTER_AREA)
    pulled = pulled.reshape(half[1], half[0], channels + 1)
    pushed = cv2.resize(_pull_push(pulled[..., :-1], pulled[..., -1:]), (width, height))
    return np.where(weight > 0, mean, pushed.reshape(height, width, channels))


def _pixels(image: Image.Image, data: bytes) -> np.ndarray[Any, Any]:
    depths = getattr(image, "tag_v2", {}).get(258, ()) if image.format == "TIFF" else ()
    deep = image.format == "PNG" and data[24] == 16 or 16 in depths
    if image.mode == "I" and deep:  # older Pillow's name for 16-bit gray PNG
        return np.asarray(image).astype(np.uint16)[:, :, None]
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[:, :, None]
    if deep and image.mode in ("LA", "RGB", "RGBA"):
        gray = image.format == "PNG" and data[25] == 4  # gray and alpha, which Pillow shows as RGBA
        return _decode_cv2(data, "LA" if gray else image.mode)
    if image.mode in ("F", "I"):
        raise AMDRestoreError(f"pixels of {image.mode} type (32 bits) are not supported; convert to 8 or 16 bits")
    if "transparency" in image.info or image.mode in ("PA", "La", "RGBa"):
        mode = "LA" if image.mode in ("1", "L", "La") else "RGBA"
    else:
        mode = {"1": "L", "L": "L", "LA": "LA", "RGBA": "RGBA"}.get(image.mode, "RGB")
    pixels = np.array(image.convert(mode))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _decode_cv2(data: bytes, mode: str) -> np.ndarray[Any, Any]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3:
        raise AMDRestoreError("16-bit image of an unusual layout; store it as plain RGB")
    channels = {"LA": [0, 3], "RGB": [2, 1, 0], "RGBA": [2, 1, 0, 3]}[mode]
    if pixels.shape[2] <= max(channels):
        raise AMDRestoreError("16-bit image of an unusual layout; store it as plain RGB")
    return pixels[:, :, channels]


def _encode_cv2(pixels: np.ndarray[Any, Any], kind: str, picture: Picture) -> bytes:
    order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    done, out = cv2.imencode(f".{kind.lower()}", np.ascontiguousarray(pixels[:, :, order]))
    if not done:
        raise AMDRestoreError(f"{kind} cannot hold {pixels.shape[1]}x{pixels.shape[0]} pixels; write tiff")
    data = out.tobytes()
    icc = picture.icc if pixels.shape[2] != 2 else None  # gray with alpha was written as RGB
    if kind == "PNG":
        return _png_with_metadata(data, icc, _resized_exif(picture))
    return _tiff_with_icc(data, icc) if kind == "TIFF" and icc else data


def _png_with_metadata(data: bytes, icc: bytes | None, exif: bytes | None) -> bytes:
    """Insert the iCCP and eXIf chunks after the header chunk (PNG specification, third edition, 11.3)."""
    chunks = b""
    if icc:
        chunks += _png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc))
    if exif:
        chunks += _png_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    end_of_header = 8 + 25  # signature; IHDR with length, name and checksum
    return data[:end_of_header] + chunks + data[end_of_header:]


def _png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _tiff_with_icc(data: bytes, icc: bytes) -> bytes:
    """Append a directory that also has tag 34675 (ICC profile); OpenCV writes one little-endian directory."""
    if data[:4] != b"II*\0":
        return data
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    entries = [data[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    data += b"\0" * (len(data) % 2)  # directories start at even positions
    entries.append(struct.pack("<HHII", 34675, 7, len(icc), len(data)))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    data += icc + b"\0" * (len(icc) % 2)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


def _kept_exif(image: Image.Image) -> tuple[bytes | None, int]:
    """EXIF worth keeping, and the orientation (1 to 8)."""
    try:
        source = image.getexif()
        kept = Image.Exif()
        for tag in _EXIF_KEPT:
            if tag in source:
                kept[tag] = source[tag]
        for ifd in (_EXIF_IFD, _GPS_IFD):
            values = {tag: value for tag, value in source.get_ifd(ifd).items() if tag not in _EXIF_DROPPED}
            if values:
                kept[ifd] = values
        orientation = source.get(_ORIENTATION, 1)
        return (kept.tobytes() if len(kept) else None), orientation if orientation in range(1, 9) else 1
    except Exception:  # damaged metadata are no reason to refuse the picture, and Pillow raises many kinds
        return None, 1


def _resized_exif(picture: Picture) -> bytes | None:
    """The EXIF block with the size of the picture it is written with."""
    if picture.exif is None:
        return None
    exif = Image.Exif()
    exif.load(picture.exif)
    values = dict(exif.get_ifd(_EXIF_IFD))
    if _EXIF_WIDTH in values or _EXIF_HEIGHT in values:
        values |= {_EXIF_WIDTH: picture.pixels.shape[1], _EXIF_HEIGHT: picture.pixels.shape[0]}
    if values:
        exif[_EXIF_IFD] = values
    return exif.tobytes()


def _upright(pixels: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """Undo the eight EXIF orientations (CIPA DC-008, 4.6.5.1)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
