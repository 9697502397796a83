"""Reader for Qt binary resource files (``.rcc``).

Layout, all integers big-endian (Qt's ``rcc`` tool, ``RCCResourceLibrary::write*``):

* header: ``b"qres"``, u32 version, u32 tree offset, u32 data offset, u32 names offset; from version 3 a
  further u32 with the union of the flags used in the file;
* tree: one record per node, 14 bytes in version 1, 22 from version 2 (a u64 time stamp is appended). A record
  begins with u32 name offset and u16 flags; a directory goes on with u32 child count and u32 index of the
  first child, a file with u16 territory, u16 language and u32 data offset;
* names: u16 length in UTF-16 units, u32 hash, then the name in UTF-16-BE;
* data: u32 payload length, payload. A zlib payload starts with the u32 uncompressed length (``qCompress``).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

MAGIC = b"qres"
FLAG_ZLIB = 0x01
FLAG_DIRECTORY = 0x02
FLAG_ZSTD = 0x04
NEWEST_VERSION = 3


class RccError(ValueError):
    """The bytes are not a resource file this reader understands."""


def iter_rcc(blob: bytes) -> Iterator[tuple[str, bytes]]:
    """Walk the files of one resource file, depth first.

    Args:
        blob: Whole content of the ``.rcc`` file.

    Yields:
        Path inside the resource tree (``"/gcompris/src/x.webp"``) and the uncompressed content.

    Raises:
        RccError: Wrong magic, unknown version, damaged offsets, or a zstd payload (Python's standard library
            has no zstd before 3.14).
    """
    if blob[:4] != MAGIC:
        raise RccError("no 'qres' magic: not a Qt binary resource file")
    try:
        version, tree, data, names = struct.unpack_from(">4I", blob, 4)
        if not 1 <= version <= NEWEST_VERSION:
            raise RccError(f"version {version} of the format is unknown (1 to {NEWEST_VERSION} are not)")
        yield from _walk(blob, (tree, data, names), 22 if version >= 2 else 14)
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise RccError(f"damaged Qt resource file: {error}") from error


def read_rcc(path: Path) -> dict[str, bytes]:
    """Read a resource file into a mapping of inner path to content; raises as `iter_rcc` does."""
    return dict(iter_rcc(path.read_bytes()))


def _walk(blob: bytes, offsets: tuple[int, int, int], record_size: int) -> Iterator[tuple[str, bytes]]:
    tree, data, names = offsets
    pending = [(0, "")]
    seen: set[int] = set()
    while pending:
        index, parent = pending.pop()
        if index in seen:
            raise RccError(f"damaged Qt resource file: node {index} is reached twice")
        seen.add(index)
        record = tree + index * record_size
        name_offset, flags = struct.unpack_from(">IH", blob, record)
        # The root node has no name of its own.
        path = f"{parent}/{_name(blob, names + name_offset)}" if index else ""
        if flags & FLAG_DIRECTORY:
            count, first = struct.unpack_from(">II", blob, record + 6)
            if count > len(blob) // record_size:
                raise RccError(f"damaged Qt resource file: node {index} claims {count} children")
            pending.extend((child, path) for child in reversed(range(first, first + count)))
        else:
            (data_offset,) = struct.unpack_from(">I", blob, record + 10)
            yield path, _payload(blob, data + data_offset, flags, path)


def _name(blob: bytes, offset: int) -> str:
    (length,) = struct.unpack_from(">H", blob, offset)
    return blob[offset + 6 : offset + 6 + 2 * length].decode("utf-16-be")


def _payload(blob: bytes, offset: int, flags: int, path: str) -> bytes:
    (length,) = struct.unpack_from(">I", blob, offset)
    content = blob[offset + 4 : offset + 4 + length]
    if len(content) != length:
        raise RccError(f"damaged Qt resource file: {path} ends beyond the file")
    if flags & FLAG_ZSTD:
        raise RccError(f"{path} is compressed with zstd, which is not supported")
    return zlib.decompress(content[4:]) if flags & FLAG_ZLIB else content
