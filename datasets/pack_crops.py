"""Pack textured crops of a folder of photographs into one array that a trainer maps into memory.

    python datasets/pack_crops.py --input datasets/data/free_photos/train --out datasets/data/crops_256.npy

The array is uint8 of shape (N, size, size, 3), RGB, in random order; a JSON file beside it says how it was
made. Ready-made crops (``--whole``, such as those of `make_text_crops`) are mixed in as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tools.image_files import file_sha256, read_image
from tools.texture import gradient_energy, grid_offsets
from tqdm import tqdm

from amd_restore.atomic import write_atomically
from amd_restore.data.image_files import list_images
from amd_restore.errors import AMDRestoreError, Parser, note, run_command, say

Crop = tuple[int, int, int]


def measure(paths: Sequence[Path], size: int, step: int) -> tuple[list[Crop], np.ndarray]:
    """Find all crops on the grid and how textured they are.

    Args:
        paths: Images.
        size: Side of a crop in pixels.
        step: Grid distance in pixels.

    Returns:
        (image index, top, left) of each crop, and float64 (N,) mean gradient energy in squared grey levels.

    Raises:
        AMDRestoreError: No image is as large as a crop.
    """
    crops: list[Crop] = []
    energies: list[float] = []
    for index, path in enumerate(tqdm(paths, desc="measuring", unit="image")):
        energy = gradient_energy(read_image(path))
        for top in grid_offsets(energy.shape[0], size, step, thresh=size // 4):
            for left in grid_offsets(energy.shape[1], size, step, thresh=size // 4):
                crops.append((index, top, left))
                energies.append(float(energy[top : top + size, left : left + size].mean()))
    used = len({index for index, _, _ in crops})
    if not used:
        raise AMDRestoreError(
            f"none of {len(paths)} images has {size}x{size} pixels or more; use larger ones or lower --size"
        )
    if used < len(paths):
        note(f"{len(paths) - used} of {len(paths)} images are smaller than {size}x{size} pixels and left out")
    return crops, np.asarray(energies)


def choose(energies: np.ndarray, drop: float, limit: int | None, seed: int) -> np.ndarray:
    """Indices of the crops to keep, shuffled: without the flattest fraction `drop`, and at most `limit`."""
    order = np.argsort(energies, kind="stable")[int(len(energies) * drop) :]
    return np.random.default_rng(seed).permutation(order)[:limit]


def pack(
    paths: Sequence[Path],
    out: Path,
    size: int,
    step: int,
    drop: float,
    limit: int | None,
    seed: int,
    whole: Sequence[Path] = (),
) -> int:
    """Write the array (complete or not at all).

    Args:
        paths: Images to crop.
        out: The file to write.
        size: Side of a crop in pixels.
        step: Grid distance in pixels.
        drop: Fraction of the flattest crops to leave out.
        limit: At most this many crops of `paths`.
        seed: Of the shuffle.
        whole: Images of one crop each, none of which is left out.

    Returns:
        Number of crops.

    Raises:
        AMDRestoreError: No image is as large as a crop, or one of `whole` is not just as large.
    """
    crops, energies = measure(paths, size, step)
    kept = choose(energies, drop, limit, seed)
    if whole:
        first = len(crops)
        crops += [(len(paths) + index, 0, 0) for index in range(len(whole))]
        paths = [*paths, *whole]
        kept = np.random.default_rng(seed + 1).permutation([*kept, *range(first, len(crops))])
    ready = frozenset(whole)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".part")
    array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(kept), size, size, 3))
    places: dict[int, list[tuple[int, int, int]]] = {}
    for slot, number in enumerate(kept):
        index, top, left = crops[int(number)]
        places.setdefault(index, []).append((slot, top, left))
    for index in tqdm(sorted(places), desc="packing", unit="image"):
        image = read_image(paths[index])
        if paths[index] in ready and image.shape[:2] != (size, size):
            height, width = image.shape[:2]
            partial.unlink(missing_ok=True)
            raise AMDRestoreError(f"{paths[index]}: {width}x{height}, not {size}x{size} as --whole needs")
        for slot, top, left in places[index]:
            array[slot] = image[top : top + size, left : left + size, ::-1]
    array.flush()
    del array
    os.replace(partial, out)
    return len(kept)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of this script."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input", type=Path, required=True, help="folder of images, searched with its subfolders")
    add("--whole", type=Path, help="folder of ready-made crops to mix in, none of them left out")
    add("--out", type=Path, required=True, help="the .npy to write")
    add("--size", type=int, default=256, help="side of a crop")
    add("--step", type=int, default=128, help="distance between crops")
    add("--drop", type=float, default=0.65, help="fraction of the flattest crops to leave out")
    add("--limit", type=int, help="at most this many crops")
    add("--seed", type=int, default=0, help="of the shuffle")
    args = parser.parse_args(argv)
    if args.size < 8 or args.step < 1 or not 0 <= args.drop < 1 or (args.limit is not None and args.limit < 1):
        parser.error("--size must be at least 8, --step and --limit at least 1, --drop in [0, 1)")
    if args.out.suffix != ".npy":
        parser.error("--out must end in .npy")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args = parse_args(argv)

    def command() -> int:
        paths = list_images(args.input, is_deep=True)
        whole = list_images(args.whole, is_deep=True) if args.whole else []
        count = pack(paths, args.out, args.size, args.step, args.drop, args.limit, args.seed, whole)
        manifest = args.input.parent / "manifest.tsv"
        facts = {
            "count": count, "size": args.size, "step": args.step, "drop": args.drop, "seed": args.seed,
            "images": len(paths), "whole": len(whole), "layout": "uint8 (N, size, size, 3) RGB",
            "manifest_sha256": file_sha256(manifest) if manifest.is_file() else None,
            "array_sha256": file_sha256(args.out),
        }  # fmt: skip
        write_atomically(args.out.with_suffix(".json"), (json.dumps(facts, indent=2) + "\n").encode())
        say(f"{count} crops of {args.size}x{args.size} from {len(paths)} images: {args.out}")
        return 0

    return run_command(command, args.debug)


if __name__ == "__main__":
    sys.exit(main())
