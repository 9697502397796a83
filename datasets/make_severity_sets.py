"""Make test sets by severity: what a resize, a web site, a phone and a bad history leave of the same photographs.

    python datasets/make_severity_sets.py --input $AMD_RESTORE_ASSETS/benchmarks/Kodak24/GT
    python datasets/make_severity_sets.py --check
    python datasets/make_severity_sets.py --scale 2

The degradations are OpenCV's and Pillow's, nothing is shared with those of the training. What is random depends on the
photograph's name, the severity and ``--seed`` alone. Writes ``OUT/GT/NAME.png`` and ``OUT/SEVERITY/NAME.png`` for
clean, web, phone and heavy; ``--check`` compares the pixels of all of them with ``datasets/severity_sets.tsv``, the
table of Kodak24. Folder and table of ``--scale 2`` and ``--scale 1`` end in ``_x2`` and ``_x1``. Other photographs need
a table of their own (``--table own.tsv --write-table``).

Exit codes: 0 all as in the table, 1 some differ or miss, 2 an error.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
from tools.made_sets import Image, add_arguments, make_and_check

from amd_restore.errors import AMDRestoreError, Parser, imports_of, run_command

with imports_of("train"):
    from amd_restore.rewards.weight_files import assets_folder

TABLE = Path(__file__).with_name("severity_sets.tsv")
SEED = 2026
SCALE = 4
# Double precision keeps what processors round otherwise out of the 8-bit result.
Real = np.ndarray[Any, np.dtype[np.float64]]  # (H, W, 3), 0 to 255


def clean(gt: Image, rng: np.random.Generator, scale: int) -> Image:
    """Bicubic x1/scale with antialiasing, a = -0.5: Pillow's, in integers."""
    size = (gt.shape[1] // scale, gt.shape[0] // scale)
    return np.asarray(PIL.Image.fromarray(gt).resize(size, PIL.Image.Resampling.BICUBIC), dtype=np.uint8)


def web(gt: Image, rng: np.random.Generator, scale: int) -> Image:
    """Area x1/scale, JPEG of quality 78 to 92."""
    return jpeg(resize(gt.astype(np.float64), gt, scale), rng.integers(78, 93))


def phone(gt: Image, rng: np.random.Generator, scale: int) -> Image:
    """Gaussian blur of sigma 0.8 to 2.4, area x1/scale, Gaussian noise of 2 to 8, JPEG of quality 55 to 80."""
    lq = resize(blur(gt.astype(np.float64), rng.uniform(0.8, 2.4)), gt, scale)
    return jpeg(noise(lq, rng.uniform(2, 8), rng), rng.integers(55, 81))


def heavy(gt: Image, rng: np.random.Generator, scale: int) -> Image:
    """Blur of sigma 0.5 to 3, x0.3 to 1, noise of 3 to 25, JPEG 40 to 89; to x1/scale, noise of 1 to 10, JPEG again."""
    first = blur(gt.astype(np.float64), rng.uniform(0.5, 3))
    first = resize(first, gt, 1 / rng.uniform(0.3, 1))
    first = jpeg(noise(first, rng.uniform(3, 25), rng), rng.integers(40, 90)).astype(np.float64)
    # Bilinear interpolation, as simple programs have it, reads every pixel only below a factor of 2.
    linear = first.shape[0] < 2 * gt.shape[0] / scale
    second = resize(first, gt, scale, cv2.INTER_LINEAR if linear else cv2.INTER_AREA)
    return jpeg(noise(second, rng.uniform(1, 10), rng), rng.integers(40, 90))


SEVERITIES: dict[str, Callable[[Image, np.random.Generator, int], Image]] = {
    "clean": clean,
    "web": web,
    "phone": phone,
    "heavy": heavy,
}


def degrade(image: Image, name: str, severity: str, seed: int, scale: int = SCALE) -> Image:
    """Low-quality side of a photograph.

    Args:
        image: uint8 (H, W, 3), BGR; sides multiples of the scale.
        name: of the photograph.
        severity: of ``SEVERITIES``.
        seed: of the set.
        scale: how much smaller the low-quality side is; blur is that of the photograph at every scale.

    Returns:
        uint8 (H / scale, W / scale, 3), BGR.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"{severity}/{name}".encode())])
    return SEVERITIES[severity](image, rng, scale)


def blur(image: Real, sigma: float) -> Real:
    """Gaussian blur, borders mirrored."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.float64)


def resize(image: Real, gt: Image, factor: float, kernel: int = cv2.INTER_AREA) -> Real:
    """To the size of the ground truth divided by ``factor``."""
    size = (round(gt.shape[1] / factor), round(gt.shape[0] / factor))
    return np.asarray(cv2.resize(image, size, interpolation=kernel), dtype=np.float64)


def noise(image: Real, sigma: float, rng: np.random.Generator) -> Real:
    """Gaussian noise, independent in every pixel and channel."""
    return image + rng.normal(0, sigma, image.shape)


def jpeg(image: Real, quality: int | np.signedinteger[Any]) -> Image:
    """The image after 8 bits and OpenCV's JPEG, which halves the colours' resolution."""
    pixels = image.round().clip(0, 255).astype(np.uint8)
    done, buffer = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = cv2.imdecode(buffer, cv2.IMREAD_COLOR) if done else None
    if decoded is None:
        raise AMDRestoreError(f"OpenCV has no JPEG for an image of shape {image.shape}; install opencv-python anew")
    return np.asarray(decoded, dtype=np.uint8)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of this script."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kodak = assets_folder() / "benchmarks/Kodak24/GT"
    add_arguments(parser, kodak, Path("datasets/data/severity"), TABLE, size=384, seed=SEED)
    parser.add_argument("--scale", type=int, choices=(4, 2, 1), default=SCALE, help=f"default: {SCALE}")
    args = parser.parse_args(argv)
    for name in ("out", "table"):
        path = getattr(args, name)
        if args.scale != SCALE and path == parser.get_default(name):
            setattr(args, name, path.with_name(f"{path.stem}_x{args.scale}{path.suffix}"))
    if args.size < 32 or args.size % SCALE or args.seed < 0:
        parser.error(f"--size must be at least 32 and a multiple of {SCALE}, --seed at least 0")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args = parse_args(argv)

    def degrade_all(gt: Image, name: str) -> dict[str, Image]:
        return {severity: degrade(gt, name, severity, args.seed, args.scale) for severity in SEVERITIES}

    return run_command(lambda: make_and_check(args, list(SEVERITIES), degrade_all), args.debug)


if __name__ == "__main__":
    sys.exit(main())
