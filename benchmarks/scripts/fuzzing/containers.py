"""Image files changed chunk by chunk: inserted, doubled, cut, moved, swollen, removed, renamed.

``changed(data, dice, pool)`` works on PNG, JPEG, WebP, GIF, TIFF, AVIF and HEIF; what is changed is mostly sealed
again, with the right length and checksum, so that it reaches the code behind the checks.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LENGTHS = (0, 1, 2, 4, 5, 9, 13, 32, 200, 3000, 70_000)  # of made bodies, in bytes
SWOLLEN = (66_000, 1_100_000, 3_000_000)
_OFTEN = 0.8
_PNG_NAMES = b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB iCCP cICP mDCV cLLI eXIf pHYs sBIT bKGD hIST sPLT tEXt zTXt iTXt"
_PNG_NAMES += b" tIME acTL fcTL fdAT caBX vpAg ABCD zzZz"
_RIFF_NAMES = b"VP8X VP8L ICCP EXIF ALPH ANIM ANMF C2PA abcd".split(b" ") + [b"VP8 ", b"XMP "]
_BOXES = (
    b"free skip uuid colr pixi ispe irot imir clap pasp auxC clli mdcv grpl idat iprp dinf Exif jumb av1C hvcC mdat"
)
_NESTED = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"iref": 4, b"moov": 0, b"trak": 0, b"mdia": 0, b"grpl": 0}
_TIFF_TAGS = (
    *(254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 284, 290, 296, 301, 305, 306, 317, 318, 320),
    *(322, 323, 324, 325, 330, 333, 338, 339, 340, 347, 530, 532, 700, 33432, 33723, 34377, 34665, 34675, 34735),
    *(34853, 37724, 50706, 52545, 65000),
)


@dataclass(frozen=True)
class Container:
    """How files of a format are made of chunks.

    Args:
        split: a file into pieces that give it when joined; the first is its head.
        head, tail: bytes of a chunk before and behind its body.
        seal: a chunk with its length and checksum set right.
        made: a new chunk.
        finish: a file with its length set right.
    """

    split: Callable[[bytes], list[bytes]]
    head: int
    tail: int
    seal: Callable[[bytes], bytes]
    made: Callable[[random.Random], bytes]
    finish: Callable[[bytes], bytes] = bytes


def damaged(data: bytes, dice: random.Random) -> bytes:
    """``data`` with a few random changes of single bytes and stretches."""
    content = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 5, 20))):
        if not content:
            break
        at = dice.randrange(len(content))
        kind = dice.randrange(5)
        if kind == 0:
            content[at] = dice.randrange(256)
        elif kind == 1:
            del content[at : at + dice.choice((1, 4, 100))]
        elif kind == 2:
            content[at:at] = content[at : at + dice.choice((1, 8, 64))]
        elif kind == 3:
            content[at : at + 4] = dice.randbytes(4)
        else:
            del content[at:]
    return bytes(content)


def kind_of(data: bytes) -> str | None:
    """Name of the format, one of ``CONTAINERS``, ``TIFF`` or ``BMFF``; None for others."""
    for name, start in (("PNG", b"\x89PNG"), ("JPEG", b"\xff\xd8"), ("WEBP", b"RIFF"), ("GIF", b"GIF8")):
        if data.startswith(start):
            return name
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    return "BMFF" if data[4:8] == b"ftyp" else None


def changed(data: bytes, dice: random.Random, pool: Sequence[bytes]) -> bytes:
    """``data`` with a few of its chunks changed; some come from ``pool``, other files of any format."""
    kind = kind_of(data)
    if kind == "TIFF":
        return _changed_tiff(data, dice)
    if kind == "BMFF":
        return _changed_boxes(data, dice)
    if kind is None:
        return damaged(data, dice)
    container = CONTAINERS[kind]
    others = [part for other in pool if kind_of(other) == kind for part in container.split(other)[1:]]
    return container.finish(b"".join(changed_pieces(container.split(data), dice, container, others)))


def changed_pieces(
    pieces: Sequence[bytes], dice: random.Random, container: Container, others: Sequence[bytes] = ()
) -> list[bytes]:
    """The chunks of a file with some of them changed; its head, the first one, stays."""
    out = list(pieces)
    for _ in range(dice.choice((1, 1, 2, 4))):
        if len(out) < 2:
            out.append(container.made(dice))
        at = dice.randrange(1, len(out))
        chunk = out[at]
        head, body = chunk[: container.head], chunk[container.head : len(chunk) - container.tail]
        tail = chunk[len(chunk) - container.tail :]
        kind = dice.choice(("insert", "take", "double", "cut", "move", "swell", "lie", "remove", "rewrite", "rename"))
        seal = container.seal if dice.random() < _OFTEN else bytes
        if kind == "insert":
            out.insert(at, container.made(dice))
        elif kind == "take" and others:
            out.insert(at, dice.choice(others))
        elif kind == "double":
            out[at:at] = [chunk] * dice.choice((1, 1, 3, 300 if len(chunk) < 999 else 2))
        elif kind == "cut":
            out[at] = seal(head + body[: dice.randrange(len(body) + 1)] + tail)
        elif kind == "move":
            out.insert(dice.randrange(1, len(out)), out.pop(at))
        elif kind == "swell":
            filler = dice.choice((b"\0", b"\xff", b"A"))
            out[at] = seal(head + body + filler * dice.choice(SWOLLEN) + tail)
        elif kind == "lie":
            out[at] = dice.randbytes(min(4, len(chunk))) + chunk[4:] if dice.random() < 0.5 else chunk[:-1]
        elif kind == "remove":
            del out[at]
        elif kind == "rewrite":
            out[at] = seal(head + damaged(body, dice) + tail)
        elif kind == "rename":
            name = container.made(dice)[: container.head]
            out[at] = seal(name + body + tail)
    return out


def split_png(data: bytes) -> list[bytes]:
    pieces, place = [data[:8]], 8
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        pieces.append(data[place:end])
        place = end
    return pieces


def seal_png(chunk: bytes) -> bytes:
    name, body = chunk[4:8], chunk[8:-4]
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _made_png(dice: random.Random) -> bytes:
    name, body = dice.choice(_PNG_NAMES.split(b" ")), _body(dice)
    if name in (b"zTXt", b"iCCP"):
        body = b"Raw profile type exif\0\0" + zlib.compress(body * dice.choice((1, 100)))
    elif name in (b"tEXt", b"iTXt") and dice.random() < 0.5:
        body = b"XML:com.adobe.xmp\0\0\0\0\0" + body
    return seal_png(bytes(4) + name + body + bytes(4))


def split_jpeg(data: bytes) -> list[bytes]:
    pieces, place = [data[:2]], 2
    while place < len(data):
        end = place + 2
        if data[place : place + 1] == b"\xff" and data[place + 1] not in (0x01, *range(0xD0, 0xDA)):
            end += int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place : place + 2] == b"\xff\xda":  # the scan goes on to the next marker
            end += int.from_bytes(data[place + 2 : place + 4], "big")
            while end < len(data) and (data[end] != 0xFF or data[end + 1 : end + 2] in (b"\0", *_RESTARTS)):
                end += 1
        pieces.append(data[place:end])
        place = end
    return pieces


_RESTARTS = tuple(bytes([marker]) for marker in range(0xD0, 0xD8))


def seal_jpeg(chunk: bytes) -> bytes:
    if len(chunk) < 4 or chunk[1] == 0xDA:  # whose length does not count the scan
        return chunk
    return chunk[:2] + struct.pack(">H", min(len(chunk) - 2, 65_535)) + chunk[4:]


def _made_jpeg(dice: random.Random) -> bytes:
    marker = dice.choice((*range(0xC0, 0xD0), *range(0xDB, 0xF0), 0xFE, 0xE1, 0xE2, 0xEB, 0xDC))
    starts = (b"", b"Exif\0\0II*\0\x08\0\0\0", b"ICC_PROFILE\0\1\1", b"http://ns.adobe.com/xap/1.0/\0", b"MPF\0II*\0")
    starts += (b"Photoshop 3.0\0008BIM", b"Adobe\0\x64\0\0\0\0\2", b"JFIF\0\1\2\0\0\0\0\0\0\0", b"JP\0\1\0\0\0\1jumb")
    return seal_jpeg(bytes([0xFF, marker, 0, 0]) + dice.choice(starts) + _body(dice)[:60_000])


def split_webp(data: bytes) -> list[bytes]:
    pieces, place = [data[:12]], 12
    while place < len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        end = place + 8 + size + size % 2
        pieces.append(data[place:end])
        place = end
    return pieces


def seal_webp(chunk: bytes) -> bytes:
    return chunk[:4] + struct.pack("<I", len(chunk) - 8) + chunk[8:] + bytes(len(chunk) % 2)


def _made_webp(dice: random.Random) -> bytes:
    return seal_webp(dice.choice(_RIFF_NAMES) + bytes(4) + _body(dice))


def finish_webp(data: bytes) -> bytes:
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def split_gif(data: bytes) -> list[bytes]:
    table = 3 << (data[10] & 7) + 1 if data[10:11] and data[10] & 0x80 else 0
    pieces, place = [data[: 13 + table]], 13 + table
    while place < len(data):
        end = place + 1
        if data[place] == 0x21:
            end = _past_blocks(data, place + 2)
        elif data[place] == 0x2C and place + 9 < len(data):
            flags = data[place + 9]
            end = _past_blocks(data, place + 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0))
        pieces.append(data[place:end])
        place = end
    return pieces


def _past_blocks(data: bytes, place: int) -> int:
    while place < len(data) and data[place]:
        place += 1 + data[place]
    return place + 1


def _made_gif(dice: random.Random) -> bytes:
    label = dice.choice((0x01, 0xF9, 0xFE, 0xFF, 0x00))
    name = dice.choice((b"NETSCAPE2.0", b"XMP DataXMP", b"ICCRGBG1012", b"Some others"))
    first = bytes([len(name)]) + name if label == 0xFF else b""
    body = _body(dice)[:9000]
    blocks = b"".join(bytes([len(body[i : i + 255])]) + body[i : i + 255] for i in range(0, len(body), 255))
    return bytes([0x21, label]) + first + blocks + b"\0"


def split_boxes(data: bytes) -> list[bytes]:
    """Boxes of ISO/IEC 14496-12 behind an empty head."""
    pieces, place = [b""], 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        end = place + size if size >= 8 else len(data)
        pieces.append(data[place:end])
        place = end
    return pieces


def seal_box(box: bytes) -> bytes:
    return struct.pack(">I", len(box)) + box[4:]


def _made_box(dice: random.Random) -> bytes:
    body = dice.choice((b"", b"nclx\0\x09\0\x10\0\x09\x80", b"prof", b"\0\0\0\0")) + _body(dice)[:9000]
    return seal_box(bytes(4) + dice.choice(_BOXES.split(b" ")) + body)


def _changed_boxes(data: bytes, dice: random.Random) -> bytes:
    """A box of the tables is changed; its new version stands at the end, so that places in the file stay right."""
    boxes = split_boxes(data)
    at = next((i for i, box in enumerate(boxes) if box[4:8] == b"meta"), None)
    if at is None or dice.random() > _OFTEN:
        return b"".join(changed_pieces(boxes, dice, CONTAINERS["BMFF"]))
    meta = _changed_box(boxes[at], dice)
    boxes[at] = boxes[at][:4] + b"free" + boxes[at][8:]
    return b"".join([*boxes, meta])


def _changed_box(box: bytes, dice: random.Random) -> bytes:
    """``box`` with one of those in it changed, at any depth."""
    start = 8 + _NESTED[box[4:8]]
    inner = split_boxes(box[start:])
    nested = [i for i, part in enumerate(inner) if part[4:8] in _NESTED]
    if nested and dice.random() < 0.6:
        at = dice.choice(nested)
        inner[at] = _changed_box(inner[at], dice)
    else:
        inner = changed_pieces(inner, dice, CONTAINERS["BMFF"])
    return seal_box(box[:start] + b"".join(inner))


def _changed_tiff(data: bytes, dice: random.Random) -> bytes:
    """The first directory is changed; its new version stands at the end, so that places in the file stay right."""
    order, big = ("<" if data[:2] == b"II" else ">"), data[2:4] in (b"+\0", b"\0+")
    offset, count, size, first = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    try:
        start = struct.unpack_from(order + offset, data, first)[0]
        number = struct.unpack_from(order + count, data, start)[0]
    except struct.error:
        return damaged(data, dice)
    place = start + struct.calcsize(count)
    entries = [data[i : i + size] for i in range(place, min(place + number * size, len(data)), size)]

    def made(dice: random.Random) -> bytes:
        values = (dice.choice((1, 2, 3, 4, 5, 7, 12, 13, 16, 99)), dice.choice((0, 1, 1, 2, 3, 4, 70_000, 1 << 31)))
        value = dice.choice((0, 1, 2, 4, 8, start, len(data), dice.randrange(1 << 32)))
        packed = struct.pack(f"{order}HH{offset}{offset}", dice.choice(_TIFF_TAGS), *values, value)
        return packed[:size]

    entry = Container(lambda data: [data], 2, 0, lambda entry: entry.ljust(size, b"\0")[:size], made)
    entries = [each for each in changed_pieces([b"", *entries], dice, entry) if len(each) < 9999]
    if dice.random() < _OFTEN:
        entries.sort(key=lambda each: struct.unpack(order + "H", each[:2])[0] if len(each) > 1 else 0)
    body = b"".join(entries)
    padding = bytes(len(data) % 2)
    new = len(data) + len(padding)
    following = dice.choice((0, 0, 0, 0, start, new, len(data) * 2, dice.randrange(1 << 16)))
    directory = struct.pack(order + count, len(body) // size) + body + struct.pack(order + offset, following)
    head = data[:first] + struct.pack(order + offset, new)
    return head + data[len(head) :] + padding + directory


def _body(dice: random.Random) -> bytes:
    length = dice.choice(LENGTHS)
    return dice.choice((bytes(length), b"\xff" * length, b"a b" * (length // 3), dice.randbytes(min(length, 999))))


CONTAINERS = {
    "PNG": Container(split_png, 8, 4, seal_png, _made_png),
    "JPEG": Container(split_jpeg, 4, 0, seal_jpeg, _made_jpeg),
    "WEBP": Container(split_webp, 8, 0, seal_webp, _made_webp, finish_webp),
    "GIF": Container(split_gif, 2, 0, bytes, _made_gif),
    "BMFF": Container(split_boxes, 8, 0, seal_box, _made_box),
}
