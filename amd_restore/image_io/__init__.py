"""Image files in and out, without losing what they carry: depth, gray, alpha, orientation, profile, EXIF, resolution.

PNG, JPEG, WebP, TIFF, BMP, AVIF and HEIF (the last with the extra ``heif``) are read and written; GIF is read, and
written as an animation. Pillow reads and checks every file (OpenCV takes a truncated JPEG for a half gray picture)
and holds the metadata; OpenCV takes what Pillow cannot: 16 bits per channel in colour, and float TIFF.

What becomes of each part of a file is listed in docs/formats.md; ``Picture.lost`` says what was dropped.
"""

from __future__ import annotations

from amd_restore.image_io.decoding import decode, read_bytes, read_image, read_shape, suffix_of
from amd_restore.image_io.encoding import encode, is_streamed, write_image
from amd_restore.image_io.fitting import check_side, fitted
from amd_restore.image_io.formats import FRAME_SUFFIXES, READABLE_SUFFIXES, SUFFIXES
from amd_restore.image_io.frames import Frame, Frames, check_animated, frames_of, read_frames, write_frames
from amd_restore.image_io.picture import DEFAULT_MAX_PIXELS, Picture
from amd_restore.image_io.transparency import fill_transparent

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "FRAME_SUFFIXES",
    "READABLE_SUFFIXES",
    "SUFFIXES",
    "Frame",
    "Frames",
    "Picture",
    "check_animated",
    "check_side",
    "decode",
    "encode",
    "fill_transparent",
    "fitted",
    "frames_of",
    "is_streamed",
    "read_bytes",
    "read_frames",
    "read_image",
    "read_shape",
    "suffix_of",
    "write_frames",
    "write_image",
]
