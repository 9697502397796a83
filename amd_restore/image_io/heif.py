"""HEIF (.heic), through pillow-heif, which is optional."""

from __future__ import annotations

import importlib
import io
from typing import Any

import numpy as np
from PIL import Image

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import colour
from amd_restore.image_io.metadata import exif_of, metadata_of
from amd_restore.image_io.parts import lost_parts
from amd_restore.image_io.picture import Picture, check_size, to_depth
from amd_restore.image_io.transparency import unmultiplied

_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
_CHANNELS = {"L": 1, "I": 1, "LA": 2, "La": 2, "RGB": 3, "RGBA": 4, "RGBa": 4}
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
DEFAULT_QUALITY = 95
_CODING = (6, 1)  # matrix and range of what is written here: BT.601, full


def is_heif(data: bytes) -> bool:
    """Whether it begins like a HEIF file that is no AVIF (ISO/IEC 23008-12, 10)."""
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[i : i + 4] for i in (8, *range(16, end, 4))}
    return bool(brands & _BRANDS) and not brands & _AVIF_BRANDS


def decode(data: bytes, max_pixels: int | None) -> Picture:
    """The main picture of a file; 10 and 12 bits become 16.

    Raises:
        AMDRestoreError: pillow-heif is missing, or the file has more pixels than allowed. On damaged files,
            whatever pillow-heif raises.
    """
    file = _library().open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    image = file[file.primary_index]
    width, height = image.size
    check_size(width, height, max_pixels)
    channels = _CHANNELS[image.mode.split(";")[0]]
    pixels = np.array(image).reshape(height, width, channels)
    if image.premultiplied_alpha:
        pixels = unmultiplied(pixels)
    # The container's own rotation has been applied; EXIF repeats it, and must not be followed.
    exif = Image.Exif()
    exif.load(image.info.get("exif") or b"")
    metadata = metadata_of(exif)
    icc = colour.kept_profile(image.info.get("icc_profile"), channels)
    named = image.info.get("nclx_profile") or {}
    signal = colour.kept_signal((named.get("color_primaries", 2), named.get("transfer_characteristics", 2)), icc)
    present = {
        "colour profile": image.info.get("icc_profile") and icc is None,
        "XMP": image.info.get("xmp"),
        "further pictures": len(file) > 1,
        "depth and other maps": image.info.get("depth_images") or image.info.get("aux"),
    }
    lost = (*lost_parts(data), *(kind for kind, there in present.items() if there))
    return Picture(pixels, icc, metadata.exif, metadata.dpi, signal, lost)


def encode(picture: Picture, quality: int | None) -> bytes:
    """Bytes of a HEIF file; more than 8 bits are written as 12.

    Raises:
        AMDRestoreError: pillow-heif is missing, or its encoder refuses.
    """
    library = _library()
    deep = picture.pixels.dtype != np.uint8
    pixels = to_depth(picture.pixels, np.uint16) if deep else picture.pixels
    mode = _MODES[pixels.shape[2]] + (";16" if deep else "")
    options: dict[str, Any] = {"quality": quality or DEFAULT_QUALITY, "chroma": 444, "enc_params": {"preset": "fast"}}
    if deep:
        options["bit_depth"] = 12
    if picture.signal:
        names = ("color_primaries", "transfer_characteristics", "matrix_coefficients", "full_range_flag")
        options |= dict(zip(names, (*picture.signal, *_CODING), strict=True))
    size = (pixels.shape[1], pixels.shape[0])
    out = io.BytesIO()
    try:
        data = np.ascontiguousarray(pixels).tobytes()
        library.encode(
            mode, size, data, out, icc_profile=picture.icc, exif=exif_of(picture, resolution=True), **options
        )
    except Exception as error:  # of many kinds; without an encoder, RuntimeError
        reason = str(error).split("\n", 1)[0]
        raise AMDRestoreError(f"HEIF cannot hold {size[0]}x{size[1]} pixels ({reason}); write png") from error
    return out.getvalue()


def _library() -> Any:
    try:
        return importlib.import_module("pillow_heif")
    except ImportError as error:
        message = "HEIF needs the package pillow-heif; install it with pip install 'amd-restore[heif]'"
        raise AMDRestoreError(message) from error
