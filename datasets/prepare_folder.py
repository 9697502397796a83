"""Turn any folder of images (DIV2K, Flickr2K, LSDIR, your own) into training data.

    python datasets/prepare_folder.py --input DIV2K_train_HR --out datasets/data/div2k
    python datasets/prepare_folder.py --input own --out datasets/data/own --scale 4 --lmdb --min-gradient 20

Writes ``OUT/train/*.png`` (or ``OUT/val``), with ``--scale 4`` also ``OUT/train_LRx4/*.png`` of the same names,
with ``--lmdb`` the same as ``OUT/train.lmdb``, and ``OUT/manifest.tsv`` with checksums. Crops are placed and
numbered as by BasicSR's ``extract_subimages``. What is already there and whole is skipped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.basicsr_tools import require_basicsr, write_lmdb
from tools.subimages import Ledger, Outcome, Recipe, Row, Source, find_sources, process
from tqdm import tqdm

from amd_restore.errors import AMDRestoreError, Parser, complain, run_command

SAVE_EVERY = 50


def run(
    sources: Sequence[Source], ledger: Ledger, split: str, recipe: Recipe, provenance: Row, workers: int
) -> list[Outcome]:
    """Process every source, several at a time; a failure is an outcome and does not stop the others.

    Args:
        sources: The images.
        ledger: Tables of the output folder; brought up to date and saved.
        split: ``train`` or ``val``.
        recipe: What to do to each image.
        provenance: ``author`` and ``licence`` for the manifest.
        workers: Images at a time.
    """
    owners = ledger.owners(split)

    def one(source: Source) -> Outcome:
        owner = owners.get(source.stem, source.name)
        if owner != source.name:
            return Outcome(source, [], None, f"{source.path}: its crops would overwrite those of {owner}; rename it")
        try:
            done = ledger.finished(source, split, recipe, provenance)
            return done or process(source, ledger.out, split, recipe, provenance)
        except (AMDRestoreError, OSError) as error:
            return Outcome(source, [], None, str(error))

    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(workers) as pool:
        for outcome in tqdm(pool.map(one, sources), total=len(sources), desc="images", unit="image"):
            outcomes.append(outcome)
            if outcome.record is not None:
                ledger.replace(split, outcome)
            if len(outcomes) % SAVE_EVERY == 0:
                ledger.save()
    ledger.save()
    return outcomes


def write_databases(out: Path, rows: Sequence[Row]) -> None:
    """Write one LMDB per folder of the given manifest rows, the low-resolution ones included."""
    folders: dict[Path, dict[str, str]] = {}
    for row in rows:
        for file, digest in ((row["file"], row["sha256"]), (row["lr_file"], row["lr_sha256"])):
            if file:
                folders.setdefault((out / file).parent, {})[Path(file).name] = digest
    for folder, checksums in folders.items():
        write_lmdb(folder, checksums)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of this script."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input", type=Path, required=True, help="folder of images, searched with its subfolders")
    add("--out", type=Path, required=True, help="output folder")
    add("--split", choices=("train", "val"), default="train")
    add("--crop-size", type=int, default=480, help="side of a crop; 0 keeps whole images (default: 480)")
    add("--step", type=int, default=240, help="distance between crops (default: 240)")
    add("--thresh", type=int, default=0, help="left-over border that calls for one more crop (default: 0)")
    add("--min-std", type=float, default=0.0, help="drop crops whose grey levels (0 to 255) spread less")
    add("--min-gradient", type=float, default=0.0, help="drop crops with a smaller mean squared gradient")
    add("--scale", type=int, default=0, help="also write MATLAB-like bicubic low-resolution images")
    add("--lmdb", action="store_true", help="also write LMDB databases as BasicSR reads them")
    add("--author", default="", help="for the manifest")
    add("--licence", default="", help="for the manifest")
    add("--workers", type=int, default=min(8, os.cpu_count() or 1), help="images at a time")
    args = parser.parse_args(argv)
    if args.crop_size < 0 or args.step < 1 or args.thresh < 0 or args.workers < 1:
        parser.error("--crop-size and --thresh must be at least 0, --step and --workers at least 1")
    if args.scale < 0 or args.scale == 1:
        parser.error("--scale must be 2 or more (0: no low-resolution side)")
    if args.scale and (args.crop_size % args.scale or args.step % args.scale):
        parser.error(f"--crop-size and --step must be multiples of --scale {args.scale}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code (0: every image was readable and some crops are there)."""
    args = parse_args(argv)
    recipe = Recipe(args.crop_size, args.step, args.thresh, args.min_std, args.min_gradient, args.scale)

    def command() -> int:
        if args.out.resolve().is_relative_to(args.input.resolve()):
            raise AMDRestoreError(f"--out {args.out} lies inside --input: it would be read back as input")
        sources, clashes = find_sources(args.input)
        if args.scale or args.lmdb:
            require_basicsr()
        ledger = Ledger(args.out)
        provenance = {"author": args.author, "licence": args.licence}
        outcomes = run(sources, ledger, args.split, recipe, provenance, args.workers)
        if args.lmdb:
            write_databases(args.out, ledger.split_rows(args.split))
        return report(outcomes, clashes, args.out)

    return run_command(command, args.debug)


def report(outcomes: Sequence[Outcome], clashes: Sequence[str], out: Path) -> int:
    """Print what happened; returns the exit code."""
    records = [outcome.record for outcome in outcomes if outcome.record is not None]
    failures = [*clashes, *(outcome.failure for outcome in outcomes if outcome.failure)]
    for record in records:
        if record["too_small"]:
            complain(f"skipped: {record['source']}: {record['too_small']} is smaller than a crop")
    for line in failures:
        complain(f"failed: {line}")
    crops = sum(len(outcome.rows) for outcome in outcomes)
    flat = sum(int(record["flat"]) for record in records)
    kept = sum(outcome.kept for outcome in outcomes)
    sys.stdout.write(
        f"{len(outcomes) + len(clashes)} images: {crops} crops, {flat} flat ones dropped, "
        f"{kept} images were already done, {len(failures)} failed; manifest: {out / 'manifest.tsv'}\n"
    )
    if not crops and not failures:
        complain("error: no crop came out; lower --crop-size, --min-std or --min-gradient")
    return 1 if failures or not crops else 0


if __name__ == "__main__":
    sys.exit(main())
