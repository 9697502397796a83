"""Colours that a file names by numbers instead of a profile, and the profile that means the same.

The numbers are those of ITU-T H.273: primaries and transfer characteristics, as in a PNG's cICP, and in the nclx of
AVIF and HEIF. A PNG's gAMA and cHRM, and the Adobe RGB of a camera's EXIF, become a profile at once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from amd_restore.errors import AMDRestoreError

Signal = tuple[int, int]  # primaries and transfer, by H.273, tables 2 and 3
UNNAMED = frozenset((0, 2, 3))  # reserved, unspecified
_D65, _C, _DCI = (0.3127, 0.329), (0.31, 0.316), (0.314, 0.351)
SRGB = (*_D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # x and y of white, red, green and blue
_PRIMARIES = {
    1: SRGB,
    2: SRGB,  # unspecified
    4: (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
    6: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (*_D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (*_DCI, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (*_D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    22: (*_D65, 0.63, 0.34, 0.295, 0.605, 0.155, 0.077),
}
_ADOBE_RGB = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_ADOBE_GAMMA = 563 / 256
# Exponents; None is the curve of sRGB, which viewers use for pictures in that of video, too.
_TRANSFERS = dict.fromkeys((1, 2, 6, 13, 14, 15)) | {4: 2.2, 5: 2.8, 8: 1.0}
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
NEAR = 0.05  # a gamma is that of sRGB within this share, as for libpng
CLOSE = 0.005  # and so are chromaticities within this distance
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def profile_of(signal: Signal, channels: int) -> bytes | None:
    """The ICC profile that says the same; None for sRGB, which is what pictures without a profile are taken for.

    Raises:
        AMDRestoreError: PQ, HLG and others that a plain profile cannot describe.
    """
    primaries, transfer = signal
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        name = {16: "PQ (HDR)", 18: "HLG (HDR)"}.get(transfer, f"H.273 {primaries}/{transfer}")
        raise AMDRestoreError(f"its colours are {name}, which this format cannot say; write png, avif or heic")
    return _profile(_PRIMARIES[primaries], _TRANSFERS[transfer], channels)


def png_profile(info: Any, channels: int) -> bytes | None:
    """The profile of a PNG's gAMA and cHRM, as Pillow gives them; None for sRGB."""
    gamma, chromaticities = info.get("gamma"), info.get("chromaticity")
    if "srgb" in info or (gamma is not None and not gamma > 0):
        return None
    exponent = None if gamma is None or abs(gamma * 2.2 - 1) < NEAR else 1 / gamma
    return _profile(chromaticities or SRGB, exponent, channels)


def bmp_profile(data: bytes) -> bytes | None:
    """The profile inside a BMP with a version 5 header (PROFILE_EMBEDDED), None without one."""
    header, size, profile, length = 14, *struct.unpack_from("<I", data, 14), *struct.unpack_from("<II", data, 126)
    if size < 124 or data[70:74] != b"DEBM":
        return None
    return data[header + profile : header + profile + length]


def adobe_rgb(channels: int) -> bytes | None:
    """A profile for Adobe RGB (1998)."""
    return _profile(_ADOBE_RGB, _ADOBE_GAMMA, channels)


def nclx(data: bytes) -> Signal | None:
    """What the main picture of an AVIF or HEIF file has for colours (ISO/IEC 23008-12); None without a nclx box."""
    tables = _tables(data)
    start, _ = tables[b"pitm"]
    main = int.from_bytes(data[start + 4 : start + (8 if data[start] else 6)], "big")
    colours = [
        struct.unpack_from(">HH", data, start + 4) if name == b"colr" and data[start : start + 4] == b"nclx" else None
        for name, start, _ in properties(data)
    ]
    given = next(start for name, start, _ in boxes(data, *tables[b"iprp"]) if name == b"ipma")
    found = [colours[index - 1] for index in _properties_of(data, given, main) if index]
    return next((colour for colour in found if colour is not None), None)


def properties(data: bytes) -> list[tuple[bytes, int, int]]:
    """The boxes of an AVIF or HEIF file that say what its pictures are like."""
    inside = next((start, end) for name, start, end in boxes(data, *_tables(data)[b"iprp"]) if name == b"ipco")
    return list(boxes(data, *inside))


def _tables(data: bytes) -> dict[bytes, tuple[int, int]]:
    start, end = next((start + 4, end) for name, start, end in boxes(data) if name == b"meta")
    return {name: (start, end) for name, start, end in boxes(data, start, end)}


def _properties_of(data: bytes, start: int, main: int) -> list[int]:
    """Numbers of the properties that the box ipma gives to the item ``main``."""
    wide, long = data[start] > 0, data[start + 3] & 1
    place = start + 8
    for _ in range(int.from_bytes(data[start + 4 : place], "big")):
        size = 4 if wide else 2
        item, count = int.from_bytes(data[place : place + size], "big"), data[place + size]
        place += size + 1
        indices = struct.unpack_from(f">{count}{'H' if long else 'B'}", data, place)
        if item == main:
            return [index & (0x7FFF if long else 0x7F) for index in indices]
        place += count * (2 if long else 1)
    return []


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Names of boxes with where their bodies begin and end (ISO/IEC 14496-12, 4.2)."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, name, head = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        size = size or end - start
        if size < head:
            return
        yield name, start + head, min(start + size, end)
        start += size


def _profile(chromaticities: tuple[float, ...], exponent: float | None, channels: int) -> bytes | None:
    """A version 4 profile of curve and, in colour, matrix (ICC.1:2022)."""
    gray = channels < 3
    plain = gray or max(abs(a - b) for a, b in zip(chromaticities, SRGB, strict=True)) < CLOSE
    if plain and exponent is None:
        return None
    curve = struct.pack(">4s4xH2x", b"para", 0 if exponent else 3)
    curve += _fixed(exponent) if exponent else _fixed(*_SRGB_CURVE)
    tags = {b"desc": _text("AMD-Restore: colours of the file"), b"cprt": _text("CC0"), b"wtpt": _xyz(_D50)}
    if gray:
        tags[b"kTRC"] = curve
    else:
        matrix = _to_d50(chromaticities)
        tags |= {name: _xyz(matrix[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    space = b"GRAY" if gray else b"RGB "
    head = struct.pack(">I4xI4s4s4s6H4s28x", 132 + 12 * len(tags) + len(body), 0x04400000, b"mntr", space, b"XYZ ",
                       2026, 1, 1, 0, 0, 0, b"acsp")  # fmt: skip
    return head + _fixed(*_D50) + bytes(48) + table + body


def _to_d50(chromaticities: tuple[float, ...]) -> np.ndarray[Any, Any]:
    """From linear RGB to XYZ relative to D50, by Bradford adaptation; (3, 3).

    Raises:
        FloatingPointError: odd numbers.
    """
    with np.errstate(divide="raise", invalid="raise"):
        white, *primaries = (np.array([x, y, 1 - x - y]) / y for x, y in np.reshape(chromaticities, (4, 2)))
    matrix = np.stack(primaries, axis=1)
    matrix = matrix * np.linalg.solve(matrix, white)
    cones = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
    return np.linalg.solve(_BRADFORD, cones @ _BRADFORD @ matrix)


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))


def _xyz(values: Any) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return struct.pack(">4s4xII2s2sII", b"mluc", 1, 12, b"en", b"US", len(encoded), 28) + encoded
