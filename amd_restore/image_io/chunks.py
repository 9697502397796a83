"""What of a PNG file matters here, and what of it is damaged but may be skipped (PNG specification, third edition)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from amd_restore.image_io.picture import damaged

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEAD, _TAIL = 8, 4  # length and name before the body of a chunk, its checksum behind it
_PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")  # may be skipped by their names, but belong to the picture
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
# Keywords of texts that Pillow looks into for the orientation, and what else they hold.
_USED = {b"Raw profile type exif": None, b"Raw profile type APP1": None, b"XML:com.adobe.xmp": "XMP"}
_LOST = {b"caBX": "content credentials", b"mDCV": "light levels", b"cLLI": "light levels"}
# Bytes that the bodies of chunks have at least; Pillow refuses the whole file if they have fewer.
_SHORTEST = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}
_LONGEST = 1 << 20  # bytes of a text, unpacked, from which on Pillow refuses the whole file
_LARGEST_PROFILE = 1 << 26
_PIECE = 1 << 20  # bytes that are unpacked at a time
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # of Adam7


@dataclass
class Cleaned:
    """A PNG file without what Pillow would stumble over.

    Args:
        data: the file.
        icc: its profile.
        cicp: body of its cICP chunk.
        lost: what is not kept, by kind.
    """

    data: bytes
    icc: bytes | None = None
    cicp: bytes | None = None
    lost: list[str] = field(default_factory=list)


def cleaned(data: bytes) -> Cleaned:
    """Take profile and colours out of a PNG file, and texts and damaged chunks that may be skipped.

    Other files stay as they are.
    """
    if not data.startswith(SIGNATURE):
        return Cleaned(data)
    found, parts, kept_from = Cleaned(data), [data[:_HEAD]], _HEAD
    for name, start, end in _chunks(data):
        if end + _TAIL > len(data):
            break  # truncated, as will be said elsewhere
        if name[0] & 0x20 and name not in _PIXELS and not _keeps(found, name, data, start, end):
            parts.append(data[kept_from : start - _HEAD])
            kept_from = end + _TAIL
    found.data = b"".join([*parts, data[kept_from:]]) if len(parts) > 1 else data
    return found


def check_pixels(data: bytes) -> None:
    """Refuse a PNG file with fewer pixels than its header says, which Pillow fills up with black.

    Raises:
        AMDRestoreError: it is damaged.
    """
    wanted, size = _packed_size(data), 0
    try:
        for part in _unpacked_pixels(data):
            size += len(part)
            if size >= wanted:
                return
    except zlib.error:
        return  # as Pillow will say
    raise damaged(f"{size} bytes of pixels where there should be {wanted}")


def bare(data: bytes) -> bytes:
    """A PNG file of true colours or gray with its pixels alone, packed anew.

    What libpng does not like about the others it says on stderr, past everyone.
    """
    header = next(data[start:end] for name, start, end in _chunks(data) if name == b"IHDR")
    packer = zlib.compressobj(0)
    rest, packed = _packed_size(data), b""
    for part in _unpacked_pixels(data):
        packed += packer.compress(part[:rest])
        rest -= len(part[:rest])
    bodies = ((b"IHDR", header), (b"IDAT", packed + packer.flush()), (b"IEND", b""))
    return SIGNATURE + b"".join(chunk(name, body) for name, body in bodies)


def _packed_size(data: bytes) -> int:
    """Bytes of all lines with their filter types, by the header (7.2 and 8)."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, _HEAD + 8)
    size = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, lines = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and lines > 0:
            size += lines * (1 + -(-columns * depth * _CHANNELS.get(colour, 1) // 8))
    return size


def _unpacked_pixels(data: bytes) -> Iterator[bytes]:
    """The lines of all IDAT chunks in pieces.

    Raises:
        zlib.error: they are damaged.
    """
    unpacker = zlib.decompressobj()
    for name, start, end in _chunks(data):
        packed = data[start:end] if name == b"IDAT" else b""
        while packed and not unpacker.eof:
            yield unpacker.decompress(packed, _PIECE)
            packed = unpacker.unconsumed_tail


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk with its length and checksum (5.3)."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Names of chunks with where their bodies begin and end, which may be behind the end of the file."""
    place = _HEAD
    while place + _HEAD < len(data):
        start = place + _HEAD
        end = start + int.from_bytes(data[place : place + 4], "big")
        yield data[place + 4 : start], start, end
        place = end + _TAIL


def _keeps(found: Cleaned, name: bytes, data: bytes, start: int, end: int) -> bool:
    """Whether a chunk that may be skipped stays in the file for Pillow."""
    body = data[start:end]
    intact = zlib.crc32(body, zlib.crc32(name)) == int.from_bytes(data[end : end + _TAIL], "big")
    if not intact or len(body) < _SHORTEST.get(name, 0):
        found.lost.append(f"damaged {name.decode('latin-1')}")
        return False
    keyword, _, rest = body.partition(b"\0")
    if name in _TEXT:
        lost = _USED.get(keyword, "text")
        if lost:
            found.lost.append(lost)
        return keyword in _USED and _length(name, rest) < _LONGEST
    if name == b"iCCP":
        found.icc = _unpacked(rest[1:], _LARGEST_PROFILE)
        if found.icc is None or len(found.icc) >= _LARGEST_PROFILE:
            found.icc = None
            found.lost.append("colour profile")
        return False
    if name == b"cICP":
        found.cicp = body
    elif name in _LOST:
        found.lost.append(_LOST[name])
    return True


def _length(name: bytes, rest: bytes) -> int:
    """Bytes of a text, unpacked; those above ``_LONGEST`` are not counted."""
    packed = {b"tEXt": b"", b"zTXt": rest[1:]}.get(name, rest[2:].split(b"\0", 2)[-1])
    if name == b"tEXt" or (name == b"iTXt" and rest[:1] != b"\1"):
        return len(rest)
    return len(_unpacked(packed, _LONGEST) or b"")


def _unpacked(packed: bytes, limit: int) -> bytes | None:
    """The first ``limit`` bytes of deflated data; None if they are damaged."""
    try:
        return zlib.decompressobj().decompress(packed, limit)
    except zlib.error:
        return None
