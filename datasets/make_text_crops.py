"""Make crops of rendered text, on plain grounds and on photographs, to be packed with the crops of photographs.

    python datasets/make_text_crops.py --photos datasets/data/free_photos/train
    python datasets/pack_crops.py --input datasets/data/free_photos/train --whole datasets/data/text_crops ...

Fonts come from free Debian packages. Four looks: *screen* (rendered at the final size, hinted, as a user interface
draws it), *page* (paragraphs), *sign* (large words on a panel) and *caption* (words straight on a photograph). All but
the first are drawn four times as large, tilted, and averaged down in linear light, as a camera integrates them.
The same seed, photographs, fonts and release of Pillow give the same pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tools.debian_packages import fetch, unpack
from tools.image_files import read_image, write_png, write_tsv
from tools.text_samples import DIGITS, SCRIPTS, random_line, script_shares
from tqdm import tqdm

from amd_restore.data.image_files import list_images
from amd_restore.errors import AMDRestoreError, Parser, run_command, say

HERE = Path(__file__).resolve().parent
FONT_PACKAGES = {
    "fonts-dejavu-core": "Bitstream-Vera",
    "fonts-dejavu-extra": "Bitstream-Vera",
    "fonts-liberation": "GPL-2 with font exception",
    "fonts-lato": "OFL-1.1",
    "fonts-noto-core": "OFL-1.1",
    "fonts-wqy-microhei": "Apache-2.0 or GPL-3 with font exception",
}
"""Debian package of fonts to its licence; none of them extends to pictures of text."""

_EUROPEAN = ("DejaVuS*.ttf", "Liberation*.ttf", "NotoSans-*.ttf", "NotoSerif-*.ttf")
FONT_FILES: dict[str, tuple[str, ...]] = {
    "latin": (*_EUROPEAN, "Lato-[BHMRS]*.ttf"),
    DIGITS: (*_EUROPEAN, "Lato-[BHMRS]*.ttf"),
    "greek": _EUROPEAN,
    "cyrillic": _EUROPEAN,
    "hebrew": ("NotoSansHebrew-*.ttf", "NotoSerifHebrew-*.ttf"),
    "armenian": ("NotoSansArmenian-*.ttf", "NotoSerifArmenian-*.ttf"),
    "georgian": ("NotoSansGeorgian-*.ttf", "NotoSerifGeorgian-*.ttf"),
    "thai": ("NotoSansThai-*.ttf", "NotoSerifThai-*.ttf"),
    "chinese": ("wqy-microhei.ttc",),
    "japanese": ("wqy-microhei.ttc",),
    "korean": ("wqy-microhei.ttc",),
}
LOOKS = ("screen", "page", "sign", "caption")
LOOK_SHARES = (0.25, 0.25, 0.25, 0.25)
FONT_SIZES = {"screen": (11, 32), "page": (12, 40), "sign": (24, 90), "caption": (16, 64)}
SUPERSAMPLE = 4
GAMMA = 2.2
MIN_CONTRAST = 60.0
COLUMNS = ("file", "look", "script", "font", "font_size", "ground", "sha256")


@dataclass(frozen=True)
class Lettering:
    """What to draw: lines with their fonts, at the final size times `scale`."""

    lines: tuple[str, ...]
    fonts: tuple[ImageFont.FreeTypeFont, ...]
    scale: int
    spacing: float
    centred: bool
    outline: int


def find_fonts(cache: Path) -> dict[str, list[Path]]:
    """Fetch the font packages and find the fonts of each script.

    Raises:
        AMDRestoreError: A package that cannot be had, or a script without a font.
    """
    roots = [unpack(fetch(package, cache), cache) for package in FONT_PACKAGES]
    found: dict[str, list[Path]] = {}
    for script, patterns in FONT_FILES.items():
        # Two packages of one family hold the same names; the path breaks the tie.
        files = {p for root in roots for pattern in patterns for p in root.rglob(pattern)}
        # Condensed cuts and hairlines under 20 pixels become grey smears that teach nothing.
        found[script] = sorted((p for p in files if "Condensed" not in p.name), key=lambda p: (p.name, str(p)))
        if not found[script]:
            raise AMDRestoreError(f"no font of {', '.join(patterns)} for {script} in {', '.join(FONT_PACKAGES)}")
    return found


def coverage(lettering: Lettering, size: int, origin: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Draw the lines.

    Args:
        lettering: What to draw.
        size: Side of the crop in final pixels.
        origin: Left and top of the text in final pixels; may lie outside.

    Returns:
        uint8 (S, S) with S = size * scale, 0 to 255: how much of each pixel is ink; and the text's box in these
        pixels (left, top, right, bottom).
    """
    side = size * lettering.scale
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    left, top = (value * lettering.scale for value in origin)
    widths = [font.getlength(line) for line, font in zip(lettering.lines, lettering.fonts, strict=True)]
    y = float(top)
    for line, font, width in zip(lettering.lines, lettering.fonts, widths, strict=True):
        x = left + (max(widths) - width) / 2 if lettering.centred else left
        draw.text((round(x), round(y)), line, fill=255, font=font, stroke_width=lettering.outline)
        y += font.size * lettering.spacing
    return np.asarray(mask), (left, top, round(left + max(widths)), round(y))


def tilt(rng: np.random.Generator, side: int, amount: float) -> np.ndarray:
    """A random homography of a square onto itself, corners moved by up to `amount` of its side: float64 (3, 3)."""
    corners = np.asarray([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32) * side
    angle = rng.uniform(-2.0, 2.0) * amount
    rotation = np.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    moved = (corners - side / 2) @ rotation.T + side / 2
    moved += rng.uniform(-amount, amount, size=(4, 2)).astype(np.float32) * side / 2
    return np.asarray(cv2.getPerspectiveTransform(corners, moved.astype(np.float32)))


def reduce(mask: np.ndarray, size: int, transform: np.ndarray | None) -> np.ndarray:
    """Warp a drawn mask and average it down to `size`: float32 (size, size, 1), 0 to 1."""
    if transform is not None:
        mask = cv2.warpPerspective(mask, transform, mask.shape[::-1], flags=cv2.INTER_LINEAR)
    if mask.shape[0] != size:
        mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)
    return (mask.astype(np.float32) / 255)[..., None]


def blend(ground: np.ndarray, colour: np.ndarray, share: np.ndarray, linear: bool) -> np.ndarray:
    """Cover a ground with a colour.

    Args:
        ground: float32 (H, W, 3), 0 to 255.
        colour: float32 (3,), 0 to 255.
        share: float32 (H, W, 1), 0 to 1.
        linear: Mix light (as a lens does) instead of code values (as a screen does).

    Returns:
        float32 (H, W, 3), 0 to 255.
    """
    if not linear:
        return np.asarray(ground + (colour - ground) * share)
    below, above = (ground / 255) ** GAMMA, (colour / 255) ** GAMMA
    return np.asarray(255 * (below + (above - below) * share) ** (1 / GAMMA))


def luma(colour: np.ndarray) -> float:
    """Luma of a BGR colour, 0 to 255."""
    return float(colour @ np.asarray([0.114, 0.587, 0.299]))


def colour_pair(rng: np.random.Generator, ground: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Two colours with a contrast that can be read.

    Args:
        rng: Source of randomness.
        ground: float (3,) BGR if the second one is given.

    Returns:
        Ink and ground: float32 (3,) each, 0 to 255.
    """
    while True:
        if ground is not None:
            below = np.asarray(ground, np.float32)
        elif rng.random() < 0.5:
            below = np.float32(rng.uniform(215, 255)) + rng.uniform(-12, 0, 3).astype(np.float32)
        else:
            vivid = rng.uniform(0, 255, 3).astype(np.float32)
            below = vivid.mean() + (vivid - vivid.mean()) * np.float32(rng.uniform(0.1, 1.0))
        grey = rng.random() < 0.5
        ink = np.full(3, rng.choice([rng.uniform(0, 50), rng.uniform(205, 255)])) if grey else rng.uniform(0, 255, 3)
        if abs(luma(ink) - luma(below)) >= MIN_CONTRAST:
            return ink.astype(np.float32), np.clip(below, 0, 255)


def letter(rng: np.random.Generator, look: str, script: str, fonts: Sequence[Path], size: int) -> Lettering:
    """Choose lines, fonts and sizes for a look."""
    low, high = FONT_SIZES[look]
    pixels = int(round(np.exp(rng.uniform(np.log(low), np.log(high)))))
    scale = 1 if look == "screen" else SUPERSAMPLE
    filled = look in ("screen", "page")
    spacing = float(rng.uniform(1.15, 1.6))
    count = int(size / (pixels * spacing)) + 2 if filled else int(rng.integers(1, 4))
    length = 2 * size // pixels + 4 if filled else max(2, min(int(rng.integers(3, 16)), 2 * size // pixels))
    pair = [str(fonts[int(i)]) for i in rng.integers(len(fonts), size=2)]
    # One line in five is set in the other face and larger or smaller, as headings and notes are.
    other = rng.random(count) < 0.2
    sizes = [max(8, round(pixels * (rng.uniform(0.7, 1.6) if second else 1.0))) for second in other]
    chosen = tuple(
        ImageFont.truetype(pair[int(second)], px * scale, layout_engine=ImageFont.Layout.BASIC)
        for second, px in zip(other, sizes, strict=True)
    )
    lines = tuple(random_line(rng, script, length) for _ in range(count))
    outline = int(rng.integers(0, 2)) * scale if look == "caption" and pixels > 20 else 0
    return Lettering(lines, chosen, scale, spacing, not filled and rng.random() < 0.7, outline)


def light(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Uneven light: a plane of up to 20% difference across the picture; float32 (H, W, 3)."""
    height, width = picture.shape[:2]
    slope = rng.uniform(-0.1, 0.1, 2)
    plane = 1 + slope[0] * np.linspace(-1, 1, height)[:, None] + slope[1] * np.linspace(-1, 1, width)[None]
    return np.asarray(picture * plane[..., None].astype(np.float32))


def render(
    rng: np.random.Generator, look: str, script: str, fonts: Sequence[Path], photo: np.ndarray, size: int
) -> tuple[np.ndarray, Lettering]:
    """Make one crop.

    Args:
        rng: Source of randomness.
        look: One of `LOOKS`.
        script: One of `SCRIPTS`.
        fonts: Fonts of that script.
        photo: uint8 (size, size, 3), BGR; ground of the looks *sign* and *caption*.
        size: Side in pixels.

    Returns:
        uint8 (size, size, 3), BGR, and what was written on it.
    """
    lettering = letter(rng, look, script, fonts, size)
    on_photo = look in ("sign", "caption")
    margin = int(rng.integers(-24, 25)) if not on_photo else int(rng.integers(0, size // 3))
    top = int(rng.integers(-24, 9)) if not on_photo else int(rng.integers(0, size // 2))
    mask, (left, upper, right, lower) = coverage(lettering, size, (margin, top))
    transform = None if look == "screen" else tilt(rng, mask.shape[0], 0.0 if rng.random() < 0.3 else 0.09)
    share = reduce(mask, size, transform)
    linear = look != "screen"
    if on_photo:
        picture = photo.astype(np.float32)
        ink, panel = colour_pair(rng, None if look == "sign" else picture.mean(axis=(0, 1)))
        if look == "sign":
            board = Image.new("L", mask.shape[::-1])
            pad = int(rng.integers(4, 20)) * lettering.scale
            ImageDraw.Draw(board).rounded_rectangle(
                (left - pad, upper - pad, right + pad, lower + pad), int(rng.choice([0, 0.5, 1]) * pad), fill=255
            )
            picture = blend(picture, panel, reduce(np.asarray(board), size, transform), linear)
        elif lettering.outline:
            # The drawn mask is the outline; the letters themselves are laid over it in the contrary colour.
            thin = Lettering(**{**lettering.__dict__, "outline": 0})
            picture = blend(picture, 255 - ink, share, linear)
            share = reduce(coverage(thin, size, (margin, top))[0], size, transform)
    else:
        ink, ground = colour_pair(rng)
        picture = np.broadcast_to(ground, (size, size, 3)).copy()
    picture = blend(picture, ink, share, linear)
    if look in ("page", "sign"):
        picture = light(rng, picture)
    if look == "page":
        # Every lens blurs a little; letters without any are kept for screens.
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.2, 0.5))), np.float32)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), lettering


def random_crop(rng: np.random.Generator, path: Path, size: int) -> np.ndarray:
    """A random square of a photograph: uint8 (size, size, 3), BGR."""
    image = read_image(path)
    if min(image.shape[:2]) < size:
        raise AMDRestoreError(f"{path}: smaller than {size} pixels on a side; remove it or lower --size")
    y, x = (int(rng.integers(length - size + 1)) for length in image.shape[:2])
    return image[y : y + size, x : x + size]


def make(
    photos: Sequence[Path], fonts: Mapping[str, Sequence[Path]], out: Path, count: int, size: int, seed: int
) -> None:
    """Write `count` crops and ``text_crops.tsv`` beside them, which says what is on each."""
    rows = []
    shares = script_shares()
    for index in tqdm(range(count), desc="text", unit="crop"):
        # A generator of its own per crop: a larger count extends the set instead of changing it.
        rng = np.random.default_rng([seed, index])
        look = str(rng.choice(LOOKS, p=LOOK_SHARES))
        script = str(rng.choice(SCRIPTS, p=shares))
        path = photos[int(rng.integers(len(photos)))]
        on_photo = look in ("sign", "caption")
        photo = random_crop(rng, path, size) if on_photo else np.zeros((size, size, 3), np.uint8)
        picture, lettering = render(rng, look, script, fonts[script], photo, size)
        name = f"text_{index:05d}.png"
        font = lettering.fonts[0]
        rows.append(
            {
                "file": name, "look": look, "script": script, "font": f"{font.getname()[0]} {font.getname()[1]}",
                "font_size": int(font.size) // lettering.scale, "ground": path.name if on_photo else "plain",
                "sha256": write_png(out / name, picture),
            }
        )  # fmt: skip
    write_tsv(out / "text_crops.tsv", COLUMNS, rows)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of this script."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--photos", type=Path, required=True, help="folder of photographs to write on: training ones only")
    add("--out", type=Path, default=HERE / "data" / "text_crops", help="output folder")
    add("--cache", type=Path, default=HERE / "data" / "packages", help="where packages are kept")
    add("--count", type=int, default=640, help="number of crops")
    add("--size", type=int, default=256, help="side of a crop")
    add("--seed", type=int, default=0, help="of everything random")
    args = parser.parse_args(argv)
    if args.count < 1 or args.size < 64:
        parser.error("--count must be at least 1, --size at least 64")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args = parse_args(argv)

    def command() -> int:
        photos = list_images(args.photos, is_deep=True)
        make(photos, find_fonts(args.cache), args.out, args.count, args.size, args.seed)
        say(f"{args.count} crops of text: {args.out}")
        return 0

    return run_command(command, args.debug)


if __name__ == "__main__":
    sys.exit(main())
