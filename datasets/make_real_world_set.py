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
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tools.made_sets import Image, add_arguments, make_and_check

from amd_restore.errors import Parser, imports_of, run_command

with imports_of("train"):
    import torch

    from amd_restore.data.degradations import build_degradation

TABLE = Path(__file__).with_name("real_world_set.tsv")
SEED = 2026
SCALES = (4, 2, 1)


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


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of this script."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path("datasets/data")
    add_arguments(parser, data / "free_photos/val", data / "real_world", TABLE, size=512, seed=SEED)
    parser.add_argument("--scales", type=int, nargs="+", default=list(SCALES), help="factors (default: 4 2 1)")
    args = parser.parse_args(argv)
    if args.size < 32 or args.seed < 0 or any(scale < 1 or args.size % scale for scale in args.scales):
        parser.error("--size must be at least 32 and a multiple of every scale, scales at least 1, --seed at least 0")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args = parse_args(argv)

    def degrade_all(gt: Image, name: str) -> dict[str, Image]:
        return {f"LQx{scale}": degrade(gt, name, scale, args.seed) for scale in args.scales}

    folders = [f"LQx{scale}" for scale in args.scales]
    return run_command(lambda: make_and_check(args, folders, degrade_all), args.debug)


if __name__ == "__main__":
    sys.exit(main())
