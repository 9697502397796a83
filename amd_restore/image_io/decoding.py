"""Bytes of a file -> :class:`Picture`."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from amd_restore.atomic import user_error
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import chunks, colour, deep, heif, signals
from amd_restore.image_io.directories import is_big, is_tiff, main_picture
from amd_restore.image_io.formats import FORMATS
from amd_restore.image_io.metadata import is_adobe_rgb, lost_of, lost_tags, metadata_of, read_metadata, upright
from amd_restore.image_io.picture import DEFAULT_MAX_PIXELS, Picture, Pixels, check_size, damaged, lenient
from amd_restore.image_io.refusals import NO_IMAGE, unsupported
from amd_restore.image_io.signals import Signal

READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF")
_KINDS = {"MPO": "JPEG", "DIB": "BMP"}  # Pillow's names for what is hardly another format
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else what it logs goes to stderr
with contextlib.suppress(OSError, AttributeError):  # Pillow may be linked in another way
    # What libtiff would say on stderr, past everyone, Pillow raises.
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)
_STRIP = 256  # rows


class _UnknownError(AMDRestoreError):
    """Pillow does not recognise the file."""


def read_image(path: str | Path, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Picture:
    """Read PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF or HEIF; the content decides, not the name.

    Palettes become RGB in the profile of the file, CMYK becomes sRGB (see :func:`~.colour.to_srgb`), 12-bit gray
    16 bits, as do AVIF and HEIF of 10 and 12 bits.

    Args:
        path: the file.
        max_pixels: more than these are refused on reading the header, before memory is taken; None allows any.

    Raises:
        AMDRestoreError: the file is missing, empty, truncated, too large, no image, an animation, has several
            pages, or is of an unknown depth.
    """
    data = read_bytes(path)
    try:
        return decode(data, max_pixels)
    except AMDRestoreError as error:
        raise AMDRestoreError(f"{path}: {error}") from error


def read_bytes(path: str | Path) -> bytes:
    """The content of a file that is not empty.

    Raises:
        AMDRestoreError: it is missing, empty, no file, or may not be read.
    """
    path = Path(path)
    with user_error(f"{path}: cannot be read", "check the path and its permissions"):
        if path.exists() and not path.is_file() and not path.is_dir():  # reading a pipe could wait for ever
            raise AMDRestoreError(f"{path}: cannot be read: no ordinary file; name an image")
        data = path.read_bytes()
    if not data:
        raise AMDRestoreError(f"{path}: the file is empty (0 bytes); copy or download it again")
    return data


def decode(data: bytes, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Picture:
    """Picture from the bytes of a file; arguments and errors as :func:`read_image`."""
    try:
        with lenient():
            return heif.decode(data, max_pixels) if heif.is_heif(data) else _decode(data, max_pixels)
    except AMDRestoreError:
        raise
    except Exception as error:  # each decoder has its own kinds of errors
        known = None if isinstance(error, MemoryError) else unsupported(data)
        raise (AMDRestoreError(known) if known else damaged(error)) from error


def _decode(data: bytes, max_pixels: int | None) -> Picture:
    lost = list[str]()
    if is_tiff(data):
        data, lost = main_picture(data)
    png = chunks.cleaned(data)
    data = png.data
    try:
        image = open_header(data, max_pixels)
    except _UnknownError:
        if is_tiff(data):
            return _decode_deep_tiff(data, max_pixels, lost)
        raise
    pages = getattr(image, "n_frames", 1)
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]  # every TIFF has it
        deep.check_strips(data, tags)
        if deep.is_deep_tiff(tags):
            return _decode_deep_tiff(data, max_pixels, lost)
    elif pages > 1 and image.format != "MPO":  # MPO: a phone's JPEG with a second, small picture
        raise AMDRestoreError(f"holds {pages} frames; restore it frame by frame with --frames, from file to file")
    if image.format == "PNG":
        chunks.check_pixels(data)
    image.load()
    image.info["icc_profile"] = png.icc or image.info.get("icc_profile")
    pixels, icc = _pixels(image, data)
    if image.info["icc_profile"] and icc is None:
        lost.append("colour profile")
    icc, signal = colours(image, png, pixels.shape[2], icc)
    metadata = read_metadata(image)
    kinds = [*lost, *png.lost, *lost_of(image, data)]
    pixels = upright(pixels, metadata.orientation)
    return Picture(pixels, icc, metadata.exif, metadata.dpi, signal, tuple(dict.fromkeys(kinds)))


def read_shape(path: str | Path) -> tuple[int, int, int, int] | None:
    """Height, width, channels and bytes of a value by the header of a file; None where that is not known."""
    try:
        with lenient(), Image.open(path, formats=READABLE) as image:
            channels = {"1": 1, "P": 4, "I": 1, "F": 1, "I;16": 1}.get(image.mode) or len(image.getbands())
            deep = image.mode[0] in "IF" or (image.format == "PNG" and "16" in str(image.tile))
            return image.height, image.width, channels, 2 if deep else 1
    except Exception:  # Pillow raises many kinds of errors for damaged headers; decoding reports them.
        return None


def suffix_of(data: bytes) -> str | None:
    """Suffix that fits the content, such as ``.jpg``; None if it is no image."""
    if heif.is_heif(data):
        return FORMATS["HEIF"].suffixes[0]
    try:
        kind = open_header(data, None).format or ""
    except AMDRestoreError:
        return FORMATS["TIFF"].suffixes[0] if is_tiff(data) else None
    return FORMATS[_KINDS.get(kind, kind)].suffixes[0]


def open_header(data: bytes, max_pixels: int | None) -> Image.Image:
    """Open with Pillow, which reads the header only.

    Raises:
        AMDRestoreError: no image, or more pixels than allowed.
    """
    with lenient():
        try:
            image = Image.open(io.BytesIO(data), formats=READABLE)
        except MemoryError:
            raise
        except Exception as error:  # each decoder has its own kinds of errors
            known = unsupported(data)
            raise (AMDRestoreError(known) if known else _UnknownError(NO_IMAGE)) from error
    check_size(*image.size, max_pixels)
    return image


def _decode_deep_tiff(data: bytes, max_pixels: int | None, lost: list[str]) -> Picture:
    """A TIFF of more than 8 bits, whose pixels Pillow does not decode, and sometimes not even its tags."""
    tags = deep.read_tags(data)
    if not {deep.WIDTH, deep.HEIGHT} <= set(tags):
        raise _UnknownError(NO_IMAGE)
    if not deep.is_deep_tiff(tags):
        raise AMDRestoreError(deep.unsupported(tags))
    check_size(tags[deep.WIDTH], tags[deep.HEIGHT], max_pixels)
    exif = Image.Exif()
    exif.load(b"" if is_big(data) else data)
    for tag in tags if is_big(data) else ():  # whose EXIF tables Pillow finds only through an image
        exif[tag] = tags[tag]
    metadata = metadata_of(exif)
    pixels = deep.decode_deep_tiff(data, tags)
    icc = colour.kept_profile(tags.get(deep.ICC_PROFILE), pixels.shape[2])
    unfit = ["colour profile"] if tags.get(deep.ICC_PROFILE) and icc is None else []
    kinds = tuple(dict.fromkeys([*lost, *unfit, *lost_tags(tags)]))
    return Picture(upright(pixels, metadata.orientation), icc, metadata.exif, metadata.dpi, lost=kinds)


def colours(
    image: Image.Image, file: chunks.Cleaned, channels: int, icc: bytes | None
) -> tuple[bytes | None, Signal | None]:
    """Profile and signal, where not the profile ``icc`` alone says what the colours are.

    A cICP chunk that names both primaries and transfer is worth more than a profile (PNG specification, 4.3).

    Raises:
        AMDRestoreError: a PNG with the value range or the matrix of video.
    """
    signal, cicp = None, file.cicp
    if cicp is not None and len(cicp) == 4:
        if cicp[2:] != b"\0\1":
            raise AMDRestoreError("a PNG with the value range or matrix of video; convert it to full-range RGB")
        signal = cicp[0], cicp[1]
    if signal is not None and signals.UNNAMED.isdisjoint(signal):
        icc = None
    elif icc is None:
        with contextlib.suppress(Exception):  # odd numbers and boxes are no reason to refuse the picture
            if image.format == "PNG":
                icc = signals.png_profile(image.info, channels)
            elif image.format == "AVIF":
                signal = signals.nclx(file.data)
            elif image.format == "BMP":
                icc = colour.kept_profile(signals.bmp_profile(file.data), channels)
            elif is_adobe_rgb(image):
                icc = signals.adobe_rgb(channels)
    return icc, colour.kept_signal(signal, icc)


def _pixels(image: Image.Image, data: bytes) -> tuple[Pixels, bytes | None]:
    profile = image.info.get("icc_profile")
    key = image.info.get("transparency")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        pixels = np.asarray(image).astype(np.uint16)[:, :, None]
        if image.format == "TIFF":
            pixels = _from_12_bits(pixels, image.tag_v2.get(deep.PHOTOMETRIC))  # type: ignore[attr-defined]  # a TIFF
        pixels = _with_key(pixels, key)
    elif image.format == "PNG" and data[24] == 16 and image.mode in ("LA", "RGB", "RGBA"):
        gray_alpha = data[25] == 4  # which Pillow decodes as RGBA
        pixels = deep.decode_cv2(chunks.bare(data), 2 if gray_alpha else len(image.mode))
        pixels = _with_key(pixels, key)
    elif image.format == "AVIF" and (deeper := deep.decode_deep_avif(data, len(image.mode))) is not None:
        pixels = deeper
    elif image.mode in ("F", "I"):
        raise AMDRestoreError(f"pixels of {image.mode} type (32 bits) are not supported; convert to 8 or 16 bits")
    elif image.mode in ("CMYK", "LAB"):
        converted, profile = colour.to_srgb(image)
        pixels = np.array(converted)
    else:
        if key is not None or image.mode in ("PA", "La", "RGBa"):
            mode = "LA" if image.mode in ("1", "L", "La") else "RGBA"
        else:
            mode = {"1": "L", "L": "L", "LA": "LA", "RGBA": "RGBA"}.get(image.mode, "RGB")
        pixels = _array(image, mode)
        if image.format == "BMP" and mode == "RGBA" and not pixels[..., 3].any():
            pixels = pixels[..., :3]  # written by programs that leave alpha alone; viewers show the colours
    return pixels, colour.kept_profile(profile, pixels.shape[2])


def _array(image: Image.Image, mode: str) -> Pixels:
    """Pixels of ``image`` in ``mode``, (H, W, C), in strips: Pillow makes three copies of what it converts."""
    width, height = image.size
    pixels = np.empty((height, width, len(mode)), np.uint8)
    for top in range(0, height, _STRIP):
        strip = image.crop((0, top, width, min(top + _STRIP, height)))
        pixels[top : top + _STRIP] = np.atleast_3d(np.asarray(strip.convert(mode)))
    return pixels


def _from_12_bits(pixels: Pixels, photometric: int | None) -> Pixels:
    scaled = (pixels.astype(np.uint32).clip(0, 4095) * 65535 + 2047) // 4095
    return (65535 - scaled if photometric == 0 else scaled).astype(np.uint16)


def _with_key(pixels: Pixels, key: int | tuple[int, ...] | None) -> Pixels:
    """Add the alpha channel that a transparent colour (PNG's tRNS) means, where there is none yet."""
    if key is None or pixels.shape[2] in (2, 4):
        return pixels
    visible = (pixels != np.asarray(key, np.uint16)).any(axis=2, keepdims=True)
    return np.concatenate([pixels, visible * np.uint16(65535)], axis=2)
