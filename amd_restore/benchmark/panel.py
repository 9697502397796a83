"""Contact sheet: ``python -m amd_restore.benchmark.panel --gt GT --lq LQ --weights A B --steps 1 --out panel.png``.

One row per image, one column per method, cut where the ground truth (or the bicubic enlargement of ``--lq`` alone) has
most detail.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageDraw

from amd_restore.atomic import path_option
from amd_restore.errors import AMDRestoreError, Parser, imports_of, run_command, say
from amd_restore.image_io import Picture, write_image
from amd_restore.weights import read_header, resolve_weights

with imports_of("train"):
    from amd_restore.benchmark.images import Image, Pair, TestSet
    from amd_restore.benchmark.methods import Bicubic, Folder, Method, build_methods
    from amd_restore.benchmark.options import BenchmarkOptions, DatasetOptions, MethodOptions

LABEL_HEIGHT = 14  # pixels; the default bitmap font is 11 high


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = Parser(prog="python -m amd_restore.benchmark.panel", description=__doc__)
    add = parser.add_argument
    add("--gt", help="folder of ground truth")
    add("--lq", help="folder of inputs, also without --gt (default: bicubic from the ground truth)")
    add("--weights", nargs="*", default=[], metavar="FILE", help="weights files or released names")
    add("--steps", nargs="*", type=int, default=[], help="numbers of steps (default: the weights')")
    add("--guidance_scale", type=float, default=1.0, help="guidance at inference")
    add("--folders", nargs="*", default=[], metavar="NAME=FOLDER", help="folders of result images")
    add("--out", required=True, type=path_option, help="image to write")
    add("--crop", type=int, default=160, help="side of the crops in ground-truth pixels; 0: whole images")
    add("--zoom", type=int, default=1, help="enlarge the crops by repeating pixels")
    add("--limit", type=int, default=6, help="number of images")
    add("--seed", type=int, default=0, help="random seed of the noise")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = build_parser().parse_args(arguments)

    def command() -> None:
        write_image(args.out, Picture(make_panel(args)))
        say(f"written to {args.out}")

    return run_command(command, args.debug, extra="train")


def make_panel(args: argparse.Namespace) -> Image:
    """Make the sheet, (H, W, 3).

    Raises:
        AMDRestoreError: missing folders, images or weights.
    """
    scale = read_header(resolve_weights(args.weights[0])).scale if args.weights else 4
    if args.gt is None and args.lq is None:
        raise AMDRestoreError("give --gt, --lq or both: there is nothing to show")
    dataset = DatasetOptions(gt=args.gt, lq=args.lq, limit=args.limit)
    test_set = TestSet(Path(args.gt or args.lq).name, dataset, scale)
    options = BenchmarkOptions(
        name="panel",
        scale=scale,
        seeds=[args.seed],
        datasets={test_set.name: dataset},
        methods=[
            MethodOptions(name=name, weights=[file], steps=args.steps, guidance_scale=args.guidance_scale)
            for name, file in zip(distinct_names(args.weights), args.weights, strict=True)
        ]
        or [MethodOptions(name="bicubic", type="bicubic")],
    )
    methods: list[Method] = [Bicubic("bicubic")]
    methods += build_methods(options) if args.weights else []
    for entry in args.folders:
        name, _, folder = entry.rpartition("=")
        methods.append(Folder(name or Path(folder).name, folder, ()))
    names = [method.name for method in methods]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise AMDRestoreError(f"two columns named {', '.join(twice)}; name folders as NAME=FOLDER")
    rows = []
    for pair in test_set:
        images = {m.name: m.runs(options)[0].restore(pair, test_set.name) for m in methods}
        if pair.gt is not None:
            images["ground truth"] = pair.gt
        rows.append(_row(pair, images, args.crop, args.zoom))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])


def distinct_names(files: Sequence[str]) -> list[str]:
    """Return the stem of each file, or where stems are equal with two folders before it, ``models`` left out."""
    stems = [Path(file).stem for file in files]
    return [
        stem
        if stems.count(stem) == 1
        else "/".join([part for part in Path(file).with_suffix("").parts if part not in ("models", "/")][-3:])
        for stem, file in zip(stems, files, strict=True)
    ]


def _row(pair: Pair, images: dict[str, Image], crop: int, zoom: int) -> Image:
    seen = images["bicubic"] if pair.gt is None else pair.gt
    top, left = most_detailed(seen, crop) if crop else (0, 0)
    cells = []
    for label, image in images.items():
        cut = image[top : top + crop, left : left + crop] if crop else image
        cut = cut.repeat(zoom, axis=0).repeat(zoom, axis=1)
        strip = PILImage.new("RGB", (cut.shape[1], LABEL_HEIGHT))
        ImageDraw.Draw(strip).text((2, 1), label, fill="white")
        cells.append(np.pad(np.concatenate([np.asarray(strip), cut]), ((0, 2), (0, 2), (0, 0))))
    return np.concatenate(cells, axis=1)


def most_detailed(image: Image, size: int) -> tuple[int, int]:
    """Return the top left corner of the square of ``size`` pixels with the largest sum of gradients."""
    gray: NDArray[np.float64] = image.astype(np.float64).mean(axis=2)
    energy = np.abs(np.diff(gray, axis=0))[:, :-1] + np.abs(np.diff(gray, axis=1))[:-1]
    rows, cols = (max(1, length - size + 1) for length in image.shape[:2])
    table = np.pad(energy.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    bottom, right = (
        np.minimum(np.arange(n) + size, side - 1) for n, side in zip((rows, cols), image.shape, strict=False)
    )
    top, left = np.arange(rows), np.arange(cols)
    sums = table[bottom][:, right] - table[top][:, right] - table[bottom][:, left] + table[top][:, left]
    row, col = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(row), int(col)


if __name__ == "__main__":
    sys.exit(main())
