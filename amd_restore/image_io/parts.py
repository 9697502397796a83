"""What WebP, AVIF, HEIF and BMP files hold beside pixels, profile and EXIF, and Pillow says nothing of."""

from __future__ import annotations

import contextlib
import struct

import numpy as np

from amd_restore.image_io.signals import CLOSE, NEAR, SRGB, boxes, properties

_CREDENTIALS = "content credentials"  # of the Coalition for Content Provenance and Authenticity
_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")  # of a box with these (C2PA specification, A.3.6)
_LIGHT_LEVELS = {b"clli", b"mdcv"}
_CALIBRATED, _HEADER = bytes(4), 14  # the kind of colours that endpoints and gammas say; the header of the file
_GAMMA = 2.2


def lost_parts(data: bytes) -> list[str]:
    """What is not kept, by kind; as much as can be found in a damaged file."""
    found: list[str] = []
    with contextlib.suppress(struct.error, LookupError, StopIteration):
        if data[:4] == b"RIFF":
            if any(data[place : place + 4] == b"C2PA" for place in _riff_places(data)):
                found.append(_CREDENTIALS)
        elif data[4:8] == b"ftyp":
            if any(name == b"uuid" and data[start : start + 16] == _UUID for name, start, _ in boxes(data)):
                found.append(_CREDENTIALS)
            if any(name in _LIGHT_LEVELS for name, _, _ in properties(data)):
                found.append("light levels")
        elif data[:2] == b"BM" and _has_own_colours(data):
            found.append("colorimetry")
    return found


def _riff_places(data: bytes) -> list[int]:
    """Where the chunks of a WebP file begin."""
    places, place = list[int](), 12
    while place + 8 <= len(data):
        places.append(place)
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return places


def _has_own_colours(data: bytes) -> bool:
    """Whether a BMP with a header of version 4 or 5 has endpoints or gammas other than those of sRGB.

    Programs disagree on what they mean: some write chromaticities where the endpoints should be.
    """
    (size,) = struct.unpack_from("<I", data, _HEADER)
    if size < 108 or data[_HEADER + 56 : _HEADER + 60] != _CALIBRATED:
        return False
    endpoints = np.array(struct.unpack_from("<9I", data, _HEADER + 60), float).reshape(3, 3)
    gammas = np.array(struct.unpack_from("<3I", data, _HEADER + 96)) / 65536
    if not endpoints.any(axis=1).all():
        return False
    chromaticities = (endpoints / endpoints.sum(axis=1, keepdims=True))[:, :2].ravel()
    is_plain = np.allclose(chromaticities, SRGB[2:], rtol=0, atol=CLOSE)
    return not (is_plain and np.allclose(gammas[gammas > 0], _GAMMA, rtol=NEAR))
