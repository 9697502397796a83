"""Test sets made from photographs: central crops, what is made of them, and the published table of their pixels."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from amd_restore.data.image_files import list_images
from amd_restore.errors import AMDRestoreError, Parser, complain, say
from tools.image_files import read_image, read_tsv, write_png, write_tsv

COLUMNS = ("file", "width", "height", "mean", "pixels_sha256")
Image = np.ndarray[Any, np.dtype[np.uint8]]  # (H, W, 3), BGR
Degrade = Callable[[Image, str], dict[str, Image]]


def pixels_sha256(image: Image) -> str:
    """Of the pixels (RGB, row by row) after their size: files of one picture differ with the encoder's version."""
    height, width = image.shape[:2]
    rgb = np.ascontiguousarray(image[:, :, ::-1])
    return hashlib.sha256(f"{width}x{height} RGB\n".encode() + rgb.tobytes()).hexdigest()


def make(inputs: Sequence[Path], out: Path, size: int, degrade: Degrade) -> list[dict[str, object]]:
    """Write the set.

    Args:
        inputs: photographs; those with a side below ``size`` are an error.
        out: folder; ``OUT/GT`` gets the central crops.
        size: side of the crops.
        degrade: low-quality sides of a crop and the photograph's name, by the name of their folder.

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
        for folder, picture in {"GT": gt, **degrade(gt, path.stem)}.items():
            name = f"{folder}/{path.stem}.png"
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
        how = "rounded otherwise (another processor or library)" if close else "another picture"
        problems.append(f"{row['file']}: differs, {how}; means differ by {difference:.2f} of 255")
    return equal, problems


def add_arguments(parser: Parser, inputs: Path, out: Path, table: Path, size: int, seed: int) -> None:
    """The options that every script of this kind has, with its defaults."""
    add = parser.add_argument
    add("--input", type=Path, default=inputs, help=f"folder of photographs (default: {inputs})")
    add("--out", type=Path, default=out, help=f"output folder (default: {out})")
    add("--size", type=int, default=size, help=f"side of the central crop (default: {size})")
    add("--seed", type=int, default=seed, help=f"of the set (default: {seed})")
    add("--table", type=Path, default=table, help="table of checksums")
    add("--check", action="store_true", help="make nothing, compare what is in --out with the table")
    add("--write-table", action="store_true", help="write the table instead of comparing with it")


def make_and_check(args: argparse.Namespace, folders: Sequence[str], degrade: Degrade) -> int:
    """What the options ask for; returns the exit code.

    Args:
        args: of :func:`add_arguments`.
        folders: of the low-quality sides.
        degrade: as for :func:`make`.

    Raises:
        AMDRestoreError: as :func:`make`, or there is no table.
    """
    if not args.check:
        rows = make(list_images(args.input, is_deep=True), args.out, args.size, degrade)
        say(f"{len(rows)} pictures in {args.out}")
        if args.write_table:
            write_tsv(args.table, COLUMNS, rows)
            say(f"written to {args.table}")
            return 0
    equal, problems = compare(args.out, read_tsv(args.table, COLUMNS), ["GT", *folders])
    for line in problems:
        complain(line)
    say(f"{equal} pictures as in {args.table.name}, {len(problems)} not")
    return 1 if problems or not equal else 0
