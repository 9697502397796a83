"""Pack the most valuable crops into one small file for a machine with a narrow link, and unpack it there.

    python datasets/pack_for_transfer.py pack --input datasets/data/free_photos/train --out crops.zip --mebibytes 28
    python datasets/pack_for_transfer.py unpack crops.zip datasets/data/crops_256.npy

Photographs take turns: the most textured crop of each, then the second of each that overlaps none taken before, and so
on until the file is full. Crops are stored as AVIF without chroma subsampling; the array that comes out has the
layout of `pack_crops`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pack_crops import Crop, measure
from PIL import Image, features
from tools.image_files import read_image
from tqdm import tqdm

from amd_restore.data.image_files import list_images
from amd_restore.errors import AMDRestoreError, Parser, run_command, say

MEBIBYTE = 1 << 20
ENTRY_OVERHEAD = 220
"""Upper bound of what a ZIP archive stores beside each file's bytes."""


def round_robin(crops: Sequence[Crop], energies: np.ndarray, size: int, least: float) -> Iterator[Crop]:
    """Crops in the order of their value: one of each image in turn, the most textured first, none overlapping.

    Args:
        crops: (image index, top, left) of each crop.
        energies: (N,) gradient energy of each.
        size: Side of a crop in pixels.
        least: Crops under this energy are left out.
    """
    queues: dict[int, list[Crop]] = {}
    for number in np.argsort(-energies, kind="stable"):
        index, top, left = crops[int(number)]
        if energies[number] < least:
            break
        taken = queues.setdefault(index, [])
        if all(abs(top - y) >= size or abs(left - x) >= size for _, y, x in taken):
            taken.append((index, top, left))
    turn = 0
    while waiting := [queue for queue in queues.values() if len(queue) > turn]:
        yield from (queue[turn] for queue in waiting)
        turn += 1


def encode(image: np.ndarray, quality: int) -> bytes:
    """AVIF of an RGB picture, uint8 (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "AVIF", quality=quality, subsampling="4:4:4")
    return buffer.getvalue()


def pack(
    paths: Sequence[Path], whole: Sequence[Path], out: Path, limit: int, size: int, step: int, drop: float, quality: int
) -> int:
    """Write the archive, complete or not at all.

    Args:
        paths: Photographs.
        whole: Ready-made crops (rendered text); they take a turn after every ten crops of photographs.
        out: The archive.
        limit: Its largest size in bytes.
        size: Side of a crop in pixels.
        step: Grid distance in pixels.
        drop: Fraction of the flattest crops that is left out.
        quality: Of AVIF, 0 to 100.

    Returns:
        Number of crops.

    Raises:
        AMDRestoreError: Nothing fits.
    """
    crops, energies = measure(paths, size, step)
    order = round_robin(crops, energies, size, float(np.quantile(energies, drop)))
    ready = iter(whole)
    partial = out.with_name(out.name + ".part")
    out.parent.mkdir(parents=True, exist_ok=True)
    count, used = 0, 1024
    cached: tuple[int, np.ndarray] | None = None
    with (
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
        tqdm(total=limit, unit="B", desc="packing") as bar,
    ):
        while True:
            path = next(ready, None) if count % 11 == 10 else None
            if path is not None:
                picture = read_image(path)[..., ::-1]
            elif (crop := next(order, None)) is not None:
                index, top, left = crop
                if cached is None or cached[0] != index:
                    cached = (index, read_image(paths[index]))
                picture = cached[1][top : top + size, left : left + size, ::-1]
            else:
                break
            if picture.shape[:2] != (size, size):
                height, width = picture.shape[:2]
                partial.unlink()
                raise AMDRestoreError(f"{path}: {width}x{height}, not {size}x{size} as --whole needs")
            content = encode(np.ascontiguousarray(picture), quality)
            if used + len(content) + ENTRY_OVERHEAD > limit:
                break
            # The date is fixed, so that the same crops give the same file.
            archive.writestr(zipfile.ZipInfo(f"{count:05d}.avif"), content)
            used += len(content) + ENTRY_OVERHEAD
            count += 1
            bar.update(len(content) + ENTRY_OVERHEAD)
        facts = {"count": count, "size": size, "quality": quality, "layout": "RGB, AVIF 4:4:4"}
        archive.writestr(zipfile.ZipInfo("crops.json"), json.dumps(facts))
    if not count:
        partial.unlink()
        raise AMDRestoreError(f"not one crop fits {limit} bytes; raise --mebibytes")
    os.replace(partial, out)
    return count


def unpack(archive_path: Path, out: Path) -> int:
    """Decode an archive into the array that a trainer maps into memory, complete or not at all.

    Returns:
        Number of crops.

    Raises:
        AMDRestoreError: Not such an archive, or a damaged one.
    """
    partial = out.with_name(out.name + ".part")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive_path) as archive:
            facts = json.loads(archive.read("crops.json"))
            count, size = int(facts["count"]), int(facts["size"])
            array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
            for index in tqdm(range(count), desc="unpacking", unit="crop"):
                with Image.open(io.BytesIO(archive.read(f"{index:05d}.avif"))) as picture:
                    array[index] = np.asarray(picture.convert("RGB"))
            array.flush()
            del array
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        partial.unlink(missing_ok=True)
        raise AMDRestoreError(f"{archive_path}: not a whole archive of crops ({error}); copy it again") from error
    os.replace(partial, out)
    return count


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of this script."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=argparse.ArgumentParser)
    add = commands.add_parser("pack", help="make the archive").add_argument
    add("--input", type=Path, required=True, help="folder of photographs, searched with its subfolders")
    add("--whole", type=Path, help="folder of ready-made crops, which fill one place in eleven")
    add("--out", type=Path, required=True, help="the archive to write")
    add("--mebibytes", type=float, default=28.0, help="largest size of the archive")
    add("--size", type=int, default=256, help="side of a crop")
    add("--step", type=int, default=128, help="distance between crops")
    add("--drop", type=float, default=0.5, help="fraction of the flattest crops to leave out")
    add("--quality", type=int, default=95, help="of AVIF")
    add = commands.add_parser("unpack", help="make the array again").add_argument
    add("archive", type=Path)
    add("out", type=Path, help="the .npy to write")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args = parse_args(argv)

    def command() -> int:
        if not features.check("avif"):
            raise AMDRestoreError("this Pillow has no AVIF; install pillow 11.3 or newer")
        if args.command == "unpack":
            count, out = unpack(args.archive, args.out), args.out
        else:
            whole = list_images(args.whole, is_deep=True) if args.whole else []
            limit = int(args.mebibytes * MEBIBYTE)
            paths = list_images(args.input, is_deep=True)
            count = pack(paths, whole, args.out, limit, args.size, args.step, args.drop, args.quality)
            out = args.out
        say(f"{count} crops, {out.stat().st_size / MEBIBYTE:.1f} MiB: {out}")
        return 0

    return run_command(command, args.debug)


if __name__ == "__main__":
    sys.exit(main())
