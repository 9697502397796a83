"""Make the synthetic real-world test set: validation photographs and what a bad camera would have left of them.

    python datasets/make_real_world_set.py --input datasets/data/free_photos/val --out datasets/data/real_world
    python datasets/make_real_world_set.py --check --out datasets/data/real_world

Each photograph is degraded by the second-order degradation of Real-ESRGAN at its published settings, with a seed that
depends on the photograph's name and ``--seed`` alone. Writes ``OUT/GT/NAME.png`` and, for each scale,
``OUT/LQx4/NAME.png``; ``--check`` compares the pixels of all of them with ``datasets/real_world_set.tsv``.

Exit codes: 0 all as in the table, 1 some differ or miss, or an error.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tools.image_files import list_images, read_image, read_tsv, write_png, write_tsv
from tqdm import tqdm

from amd_restore.data.degradations import build_degradation
from amd_restore.errors import AMDRestoreError, Parser, complain, run_command, say

TABLE = Path(__file__).with_name("real_world_set.tsv")
COLUMNS = ("file", "width", "height", "mean", "pixels_sha256")
SEED = 2026
SCALES = (4, 2, 1)
Image = np.ndarray[Any, np.dtype[np.uint8]]  # (H, W, 3)


def pixels_sha256(image: Image) -> str:
    """Of the pixels (RGB, row by row) after their size: files of one picture differ with the encoder's version."""
    height, width = image.shape[:2]
    rgb = np.ascontiguousarray(image[:, :, ::-1])
    return hashlib.sha256(f"{width}x{height} RGB\n".encode() + rgb.tobytes()).hexdigest()


def degrade(image: Image, name: str, scale: int, seed: int) -> Image:
    """Low-quality side of a photograph, in double precision: what threads and processors round otherwise stays unseen.

    Args:
        image: uint8 (H, W, 3), BGR; sides multiples of ``scale``.
        name: of the photograph; with ``seed`` it decides everything that is random.
        scale: factor between the two sides; all scales share blur, noise strength and JPEG qualities.
        seed: of the set.

    Returns:
        uint8 (H / scale, W / scale, 3), BGR.
    """
    degradation = build_degradation({"type": "second_order"}, scale)
    degradation.reseed((seed << 32) + zlib.crc32(name.encode()))
    gt = torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1])).permute(2, 0, 1)[None].double() / 255.0
    lq = degradation(gt)[0].permute(1, 2, 0).mul(255.0).round().byte().numpy()
    return np.ascontiguousarray(lq[:, :, ::-1])


def make(inputs: Sequence[Path], out: Path, scales: Sequence[int], size: int, seed: int) -> list[dict[str, object]]:
    """Write the set.

    Args:
        inputs: photographs; those with a side below ``size`` are an error.
        out: folder.
        scales: factors.
        size: side of the central crop, a multiple of all scales.
        seed: of the set.

    Returns:
        Rows of the table.

    Raises:
        AMDRestoreError: a photograph is unreadable or too small, or a file cannot be written.
    """
    rows = []
    for path in tqdm(inputs, unit="photograph", disable=None):
        image = read_image(path)
        height, width = image.shape[:2]
        if min(height, width) < size:
            raise AMDRestoreError(f"{path}: {width}x{height} is smaller than --size {size}")
        top, left = (height - size) // 2, (width - size) // 2
        gt = np.ascontiguousarray(image[top : top + size, left : left + size])
        made = {f"GT/{path.stem}.png": gt}
        made |= {f"LQx{scale}/{path.stem}.png": degrade(gt, path.stem, scale, seed) for scale in scales}
        for name, picture in made.items():
            write_png(out / name, picture)
            rows.append(describe(name, picture))
    return rows


def describe(name: str, image: Image) -> dict[str, object]:
    """Row of the table."""
    height, width = image.shape[:2]
    digest = pixels_sha256(image)
    return {"file": name, "width": width, "height": height, "mean": f"{image.mean():.2f}", "pixels_sha256": digest}


def compare(out: Path, table: Sequence[dict[str, str]], made: Sequence[str]) -> tuple[int, list[str]]:
    """How many files are as in the table, and a line on each that is not.

    Args:
        out: folder of the set.
        table: rows.
        made: sub-folders that are wanted (``GT``, ``LQx4``).
    """
    equal, problems = 0, []
    for row in table:
        if row["file"].split("/")[0] not in made:
            continue
        path = out / row["file"]
        if not path.is_file():
            problems.append(f"{row['file']}: missing")
            continue
        image = read_image(path)
        found = describe(row["file"], image)
        if found["pixels_sha256"] == row["pixels_sha256"]:
            equal += 1
            continue
        same = str(found["width"]) == row["width"] and str(found["height"]) == row["height"]
        difference = abs(float(image.mean()) - float(row["mean"]))
        close = same and difference < 0.05
        how = "rounded otherwise (another processor or torch)" if close else "another picture"
        problems.append(f"{row['file']}: differs, {how}; means differ by {difference:.2f} of 255")
    return equal, problems


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of this script."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input", type=Path, default=Path("datasets/data/free_photos/val"), help="folder of photographs")
    add("--out", type=Path, default=Path("datasets/data/real_world"), help="output folder")
    add("--scales", type=int, nargs="+", default=list(SCALES), help="factors (default: 4 2 1)")
    add("--size", type=int, default=512, help="side of the central crop")
    add("--seed", type=int, default=SEED, help=f"of the set (default: {SEED})")
    add("--table", type=Path, default=TABLE, help="table of checksums")
    add("--check", action="store_true", help="make nothing, compare what is in --out with the table")
    add("--write-table", action="store_true", help="write the table instead of comparing with it")
    args = parser.parse_args(argv)
    if args.size < 32 or args.seed < 0 or any(scale < 1 or args.size % scale for scale in args.scales):
        parser.error("--size must be at least 32 and a multiple of every scale, scales at least 1, --seed at least 0")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args = parse_args(argv)

    def command() -> int:
        if not args.check:
            rows = make(list_images(args.input), args.out, args.scales, args.size, args.seed)
            say(f"{len(rows)} pictures in {args.out}")
            if args.write_table:
                write_tsv(args.table, COLUMNS, rows)
                say(f"written to {args.table}")
                return 0
        table = read_tsv(args.table, COLUMNS)
        equal, problems = compare(args.out, table, ["GT", *(f"LQx{scale}" for scale in args.scales)])
        for line in problems:
            complain(f"{line}")
        say(f"{equal} pictures as in {args.table.name}, {len(problems)} not")
        return 1 if problems or not equal else 0

    return run_command(command, args.debug)


if __name__ == "__main__":
    sys.exit(main())
