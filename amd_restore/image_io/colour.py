"""Colour profiles: which are kept, and how ink becomes light."""

from __future__ import annotations

import functools
import io

from PIL import Image, ImageCms

from amd_restore.image_io.signals import UNNAMED, Signal

_BLACK_POINT = ImageCms.Flags.BLACKPOINTCOMPENSATION
_DATE = slice(24, 36)  # of a profile's header (ICC.1:2022, 7.2)


@functools.cache
def srgb_profile() -> bytes:
    """An sRGB profile, the same bytes in every run."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[_DATE] = b"\x07\xea\x00\x01\x00\x01" + bytes(6)  # Little CMS puts the time of day here
    return bytes(profile)


def to_srgb(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """CMYK or Lab pixels as RGB, with the profile that belongs to them.

    CMYK with a profile is converted through it (relative colorimetric, black point compensated, as photo editors
    do) and then carries sRGB. CMYK without a usable one is converted by the plain formula and carries none, since
    the colours of its inks are unknown.
    """
    target = ImageCms.createProfile("sRGB")
    try:
        if image.mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(image.info.get("icc_profile") or b""))
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        converted = ImageCms.profileToProfile(image, source, target, intent, "RGB", flags=_BLACK_POINT)
    except (OSError, ImageCms.PyCMSError):
        if image.mode == "LAB":
            raise
        return image.convert("RGB"), None
    assert converted is not None  # it is when nothing is converted in place
    return converted, srgb_profile()


def kept_signal(signal: Signal | None, icc: bytes | None) -> Signal | None:
    """``signal`` unless there is a profile, or it names sRGB, or nothing."""
    plain = signal is None or (signal[0] in UNNAMED | {1} and signal[1] in UNNAMED | {13})
    return None if icc or plain else signal


def kept_profile(profile: bytes | None, channels: int) -> bytes | None:
    """``profile`` if it describes that many channels: gray for 1 and 2, RGB for 3 and 4."""
    space = b"GRAY" if channels < 3 else b"RGB "
    return profile if profile and profile[16:20] == space else None
