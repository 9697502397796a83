"""Pictures of docs/gallery.md: six kinds of inputs beside bicubic, two peers and the default model.

    python benchmarks/scripts/gallery.py make --out datasets/data/gallery
    python benchmarks/scripts/peers/run.py --peers realesrgan-x4plus realesr-general-x4v3 --input datasets/data/gallery
        --datasets inputs --output results/gallery --downloads FOLDER
    python benchmarks/scripts/gallery.py show --inputs datasets/data/gallery/inputs --peers results/gallery

``make`` cuts and degrades photographs of the validation split (``datasets/prepare_free_photos.py``), draws text
and a drawing; ``show`` writes ``docs/images/gallery_KIND.jpg``, columns as in ``COLUMNS``. Less than a minute on a CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from legibility import Images, draw, restore

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path += [str(REPOSITORY / "datasets")]
from make_severity_sets import SEED, degrade  # noqa: E402
from tools.image_files import read_image, write_png  # noqa: E402

from amd_restore.errors import AMDRestoreError, Parser, run_command, say  # noqa: E402

COLUMNS = ("input", "bicubic", "Real-ESRGAN x4plus", "realesr-general-x4v3", "x4-real, 1 step")
PEERS = ("realesrgan-x4plus", "realesr-general-x4v3")
SIDE = 256  # pixels of the ground truth, and of a picture's column
# kind: photograph of the validation split, left and top of the cut, severity
PHOTOGRAPHS = {
    "people": ("gcompris-qt-data__explore_world_music-mexico", 170, 40, "phone"),
    "night": ("palapeli-data__cincinnati-bridge", 0, 20, "phone"),
    "web": ("gcompris-qt-data__explore_monuments-greatWallofChina", 230, 200, "web"),
    "old": ("gcompris-qt-data__explore_monuments-mountRushmore", 150, 130, "heavy"),
}
TEXT = (("Gate 27, 9:45", 40), ("quay 1863 east", 33), ("tea 4.50, soup", 26))  # lines, and size of the font
KINDS = (*PHOTOGRAPHS, "text", "drawing")


def drawing() -> np.ndarray:
    """A face of flat colours and outlines: uint8 (SIDE, SIDE, 3), BGR."""
    image = np.full((4 * SIDE, 4 * SIDE, 3), (214, 180, 120), np.uint8)
    ink = (40, 30, 30)
    cv2.rectangle(image, (0, 760), (1023, 1023), (90, 150, 60), -1)
    for centre, radius, colour in (((512, 540), 330, (120, 190, 250)), ((390, 480), 70, (255, 255, 255))):
        cv2.circle(image, centre, radius, colour, -1, cv2.LINE_AA)
        cv2.circle(image, centre, radius, ink, 14, cv2.LINE_AA)
    cv2.circle(image, (634, 480), 70, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(image, (634, 480), 70, ink, 14, cv2.LINE_AA)
    for x in (405, 619):
        cv2.circle(image, (x, 490), 26, (110, 80, 20), -1, cv2.LINE_AA)
    cv2.ellipse(image, (512, 640), (150, 90), 0, 15, 165, ink, 12, cv2.LINE_AA)
    for k in range(9):
        cv2.line(image, (240 + 68 * k, 300 - 9 * k % 40), (220 + 75 * k, 120), ink, 6, cv2.LINE_AA)
    return np.asarray(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def make(photographs: Path, out: Path) -> None:
    """Write ``out/inputs/KIND.png``, a quarter of ``SIDE`` wide."""
    for kind, (name, left, top, severity) in PHOTOGRAPHS.items():
        truth = read_image(photographs / f"{name}.png")[top : top + SIDE, left : left + SIDE]
        if kind == "old":  # an old print, imitated: without colours, blurred, grainy, scanned as JPEG
            truth = (
                np.ascontiguousarray(truth @ np.array([0.114, 0.587, 0.299]))[..., None].repeat(3, 2).astype(np.uint8)
            )
        write_png(out / "inputs" / f"{kind}.png", degrade(np.ascontiguousarray(truth), kind, severity, SEED))
    lines = [draw(text, size, np.random.default_rng(SEED)) for text, size in TEXT]
    text = np.full((SIDE, SIDE, 3), lines[0][0, 0], np.uint8)
    for top, line in zip(range(0, SIDE, SIDE // len(lines)), lines, strict=False):
        rows, columns = min(len(line), SIDE // len(lines)), min(line.shape[1], SIDE)
        text[top : top + rows, :columns] = line[:rows, :columns]
    write_png(out / "inputs/text.png", degrade(text, "text", "phone", SEED))
    write_png(out / "inputs/drawing.png", degrade(drawing(), "drawing", "web", SEED))


def show(inputs: Path, peers: Path, out: Path) -> None:
    """Write a picture for each kind.

    Raises:
        AMDRestoreError: an input or a peer's result is missing.
    """
    lq: Images = {kind: read_image(inputs / f"{kind}.png") for kind in KINDS}
    ours = restore("x4-real", lq)
    for kind, image in lq.items():
        results = [peers / peer / "inputs" / f"{kind}.png" for peer in PEERS]
        missing = [str(path) for path in results if not path.is_file()]
        if missing:
            raise AMDRestoreError(f"{missing[0]}: missing; run the peers first, as the head of this script says")
        size = (SIDE, SIDE)
        row = [cv2.resize(image, size, interpolation=way) for way in (cv2.INTER_NEAREST, cv2.INTER_CUBIC)]
        row = [*row, *(read_image(path) for path in results), ours[kind]]
        cv2.imwrite(str(out / f"gallery_{kind}.jpg"), np.hstack(row), [cv2.IMWRITE_JPEG_QUALITY, 90])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making, showing = commands.add_parser("make"), commands.add_parser("show")
    making.add_argument("--photographs", type=Path, default=Path("datasets/data/free_photos/val"))
    making.add_argument("--out", type=Path, default=Path("datasets/data/gallery"))
    showing.add_argument("--inputs", type=Path, default=Path("datasets/data/gallery/inputs"))
    showing.add_argument("--peers", type=Path, default=Path("results/gallery"))
    showing.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args(argv)

    def command() -> None:
        if args.command == "make":
            make(args.photographs, args.out)
        else:
            show(args.inputs, args.peers, args.out)
            say(f"{len(KINDS)} pictures in {args.out}")

    return run_command(command, args.debug, parser.prog)


if __name__ == "__main__":
    sys.exit(main())
