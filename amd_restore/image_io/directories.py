"""The directories of a TIFF file, and which is the picture: no thumbnail, mask or smaller copy, and no camera raw."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from amd_restore.errors import AMDRestoreError

SUBFILE, WIDTH, HEIGHT, PHOTOMETRIC, ORIENTATION, SUB_DIRECTORIES, DNG_VERSION = 254, 256, 257, 262, 274, 330, 50706
_TAGS = (SUBFILE, WIDTH, HEIGHT, PHOTOMETRIC, ORIENTATION, SUB_DIRECTORIES, DNG_VERSION)
_REDUCED, _MASK = 1, 4
_RAW = (32803, 34892)  # photometric: a colour filter array, and linear raw
_SHORT, _TYPES = 3, {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
RAW = "camera raw, of which only previews could be read; develop it first, to TIFF, PNG or JPEG"


@dataclass(frozen=True)
class Directory:
    """One directory of a file.

    Args:
        start: where it begins.
        end: where the place of the next one is stored.
        values: of the tags that matter here.
        places: where these begin.
    """

    start: int
    end: int
    values: dict[int, tuple[int, ...]]
    places: dict[int, int]

    def get(self, tag: int) -> int:
        """The first value of a tag, 0 without."""
        return self.values.get(tag, (0,))[0]


def is_tiff(data: bytes) -> bool:
    """Whether it begins like a TIFF or BigTIFF file."""
    return data[:4] in (b"II*\0", b"MM\0*") or is_big(data)


def is_big(data: bytes) -> bool:
    """Whether it begins like a BigTIFF file."""
    return data[:4] in (b"II+\0", b"MM\0+")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.order, self.big = data, "<" if data[:2] == b"II" else ">", is_big(data)
        self.first = 8 if self.big else 4  # where the place of the first directory is stored
        self.offset = "Q" if self.big else "I"

    def number(self, kind: str, place: int) -> int:
        return int(struct.unpack_from(self.order + kind, self.data, place)[0])

    def directory(self, start: int) -> Directory:
        head, size, value = (8, 20, 12) if self.big else (2, 12, 8)
        end = start + head + size * self.number("Q" if self.big else "H", start)
        values, places = {}, {}
        for entry in range(start + head, min(end, len(self.data)), size):
            tag, kind = self.number("H", entry), _TYPES.get(self.number("H", entry + 2))
            if kind and tag in _TAGS:
                count = self.number(self.offset, entry + 4)
                place = entry + value
                if count * struct.calcsize(kind) > size - value:
                    place = self.number(self.offset, place)
                places[tag] = place
                values[tag] = struct.unpack_from(f"{self.order}{min(count, 99)}{kind}", self.data, place)
        return Directory(start, end, {tag: found for tag, found in values.items() if found}, places)

    def chain(self) -> Iterator[Directory]:
        seen, start = set[int](), self.number(self.offset, self.first)
        while start and start not in seen:
            seen.add(start)
            yield (directory := self.directory(start))
            start = self.number(self.offset, directory.end)


def without_orientation(data: bytes) -> bytes:
    """The file with orientation 1: OpenCV would apply it, at some depths and in some of its versions."""
    reader = _Reader(data)
    place = next(reader.chain()).places.get(ORIENTATION)
    if place is None:
        return data
    return data[:place] + struct.pack(reader.order + "H", 1) + data[place + 2 :]


def main_picture(data: bytes) -> tuple[bytes, list[str]]:
    """A TIFF file of the one full picture that ``data`` holds, and what else it held, by kind.

    Raises:
        AMDRestoreError: a camera raw, or several pictures.
    """
    if data[8:10] == b"CR":  # Canon's
        raise AMDRestoreError(RAW)
    reader = _Reader(data)
    try:
        directories = list(reader.chain())
        below = [reader.directory(start) for each in directories for start in each.values.get(SUB_DIRECTORIES, ())]
    except struct.error:  # damaged, as will be said elsewhere
        return data, []
    if any(each.get(PHOTOMETRIC) in _RAW or DNG_VERSION in each.values for each in directories + below):
        raise AMDRestoreError(RAW)
    full = [each for each in directories if not each.get(SUBFILE) & (_REDUCED | _MASK)]
    full = full or [each for each in below if not each.get(SUBFILE) & (_REDUCED | _MASK)] or directories[:1]
    if len(full) > 1:
        raise AMDRestoreError(f"holds {len(full)} pages; split it into single images first")
    others = [each for each in directories + below if each not in full]
    if not others or not full:
        return data, []
    # Alone, and the first one: then no library takes another for the picture.
    changed = bytearray(data)
    struct.pack_into(reader.order + reader.offset, changed, reader.first, full[0].start)
    struct.pack_into(reader.order + reader.offset, changed, full[0].end, 0)
    return bytes(changed), ["mask" if each.get(SUBFILE) & _MASK else "smaller copies" for each in others]
