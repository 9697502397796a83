"""Why a file cannot be read: what it is, where that is recognised."""

from __future__ import annotations

from amd_restore.image_io.directories import RAW

NO_IMAGE = "no image file, or a broken one; PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF and HEIF can be read"
_VIDEO = "a video; restore it with amd-restore video"
_OTHERS = (  # how files of other formats begin (a dot stands for any byte), and their name or what to say
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"8BPS", "Photoshop"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RA", "Radiance HDR"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"%PDF", "PDF"),
    (b"\0\0\1\0", "ICO"),
    (b"<svg", "SVG"),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"IIRO", RAW),
    (b"IIRS", RAW),
    (b"IIU\0", RAW),
    (b"MMOR", RAW),
    (b"FOVb", RAW),
    (b"....ftypcrx ", RAW),
    *((b"....ftyp" + brand, _VIDEO) for brand in (b"mp4", b"iso", b"qt  ", b"M4V", b"3g", b"avc1", b"f4v")),
    (b"RIFF....AVI ", _VIDEO),
    (b"FLV\1", _VIDEO),
    (b"\0\0\1\xba", _VIDEO),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _VIDEO),
    (b"\x1aE\xdf\xa3", _VIDEO),
    (b"version https://git-lfs", "only a pointer to the file; fetch it with git lfs pull"),
    (128 * b"." + b"DICM", "DICOM"),
    (b"icns", "ICNS"),
    (b"<?xml", "XML and SVG"),
)
_FRAMES = {  # second bytes of the JPEG markers that begin a frame
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "lossless",
    0xCB: "lossless",
    0xF7: "JPEG-LS",
}


def unsupported(data: bytes) -> str | None:
    """What to say about a file that cannot be read, and is of a kind that is not; None if it may be damaged."""
    if data[:2] == b"\xff\xd8":
        return _unsupported_jpeg(data)
    for start, name in _OTHERS:
        if all(a in (b, 0x2E) for a, b in zip(start, data, strict=False)) and len(data) >= len(start):
            return name if ";" in name else f"{name} files cannot be read; convert it to PNG or TIFF"
    return None


def _unsupported_jpeg(data: bytes) -> str | None:
    """What to say about a JPEG of a kind that is not read (ITU-T T.81, B.2.2); None for the usual kinds."""
    place = 2
    while place + 4 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _FRAMES or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            kind, bits = _FRAMES.get(marker), data[place + 4]
            if not any(data[place + 5 : place + 7]):
                return "JPEG files that tell their height behind the picture (DNL) cannot be read; convert it to PNG"
            if bits == 8 and kind in (None, "lossless"):
                return None
            return f"{kind or f'{bits}-bit'} JPEG files cannot be read; convert it to PNG or TIFF"
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big") if marker != 0xFF else 1
    return None
