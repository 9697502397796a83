"""Cutting a folder's images into crops, and the tables that say what was cut from what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amd_restore.data.image_files import list_images
from amd_restore.errors import AMDRestoreError
from tools.basicsr_tools import bicubic_downscale
from tools.image_files import decode, file_sha256, read_tsv, sha256, write_png, write_tsv
from tools.texture import crop_energy, grid_offsets

MANIFEST_COLUMNS = (
    "file", "source", "author", "licence", "source_sha256", "sha256", "width", "height", "top", "left", "std",
    "gradient", "lr_file", "lr_sha256", "split",
)  # fmt: skip
SOURCE_COLUMNS = ("source", "split", "stem", "sha256", "recipe", "crops", "flat", "too_small")

Row = dict[str, str]


@dataclass(frozen=True)
class Recipe:
    """What is done to each image; all lengths in pixels.

    Attributes:
        crop_size: Side of a crop, 0 for whole images.
        step: Distance between crops.
        thresh: Left-over border above which a last crop flush with the border is added.
        min_std: Smallest standard deviation of the grey levels (0 to 255) of a crop.
        min_gradient: Smallest mean squared gradient of a crop, in squared grey levels.
        scale: Downscaling factor of the low-resolution side, 0 for none.
    """

    crop_size: int
    step: int
    thresh: int
    min_std: float
    min_gradient: float
    scale: int


@dataclass(frozen=True)
class Source:
    """One input image: its file, its name in the manifest, and the stem of its crops."""

    path: Path
    name: str
    stem: str


@dataclass(frozen=True)
class Outcome:
    """What came of one source.

    Attributes:
        source: The source.
        rows: Its manifest rows.
        record: Its row of ``sources.tsv``; None after a failure.
        failure: One line for the user, empty if all went well.
        kept: Whether an earlier run had done it all.
    """

    source: Source
    rows: list[Row]
    record: Row | None
    failure: str = ""
    kept: bool = False


def find_sources(folder: Path) -> tuple[list[Source], list[str]]:
    """The images of a folder, with stems that are safe as LMDB keys (BasicSR cuts a key at its first dot).

    Returns:
        The images, and one line for each that would get the name of an earlier one.

    Raises:
        AMDRestoreError: Missing or empty folder.
    """
    sources: list[Source] = []
    clashes: list[str] = []
    taken: dict[str, Path] = {}
    for path in list_images(folder, is_deep=True):
        relative = path.relative_to(folder)
        stem = re.sub(r"[^A-Za-z0-9_-]", "_", "_".join(relative.with_suffix("").parts))
        if stem in taken:
            clashes.append(f"{path}: like {taken[stem]} it would become {stem}*.png; rename one of them")
            continue
        taken[stem] = path
        sources.append(Source(path, f"{folder.resolve().name}/{relative.as_posix()}", stem))
    return sources, clashes


def crop_boxes(height: int, width: int, recipe: Recipe) -> list[tuple[int, int, int, int]]:
    """Places (top, left, height, width) of the crops of an image, row by row; empty if it is too small."""
    if not recipe.crop_size:
        return [(0, 0, height, width)] if height and width else []
    size = recipe.crop_size
    rows = grid_offsets(height, size, recipe.step, recipe.thresh)
    columns = grid_offsets(width, size, recipe.step, recipe.thresh)
    return [(top, left, size, size) for top in rows for left in columns]


def process(source: Source, out: Path, split: str, recipe: Recipe, provenance: Row) -> Outcome:
    """Crop one image, write its crops and their low-resolution sides.

    Args:
        source: The image.
        out: Output folder.
        split: ``train`` or ``val``, the folder below it.
        recipe: What to do.
        provenance: ``author`` and ``licence`` for the manifest.

    Raises:
        AMDRestoreError: Unreadable image, or the output cannot be written.
    """
    try:
        content = source.path.read_bytes()
    except OSError as error:
        raise AMDRestoreError(f"{source.path}: cannot be read ({error.strerror}); check its rights") from error
    image = decode(content, str(source.path))
    scale = recipe.scale or 1
    height, width = (side // scale * scale for side in image.shape[:2])
    boxes = crop_boxes(height, width, recipe)
    # Downscaled before cropping, as BasicSR users do, so that crops have no borders of their own.
    small = bicubic_downscale(image[:height, :width], scale) if recipe.scale and boxes else None
    digest = sha256(content)
    rows: list[Row] = []
    for number, (top, left, rows_high, columns_wide) in enumerate(boxes, start=1):
        crop = np.ascontiguousarray(image[top : top + rows_high, left : left + columns_wide])
        std, gradient = float(crop.mean(axis=2).std()), crop_energy(crop)
        if std < recipe.min_std or gradient < recipe.min_gradient:
            continue
        # Numbered by place, so that names do not depend on which crops are flat.
        name = f"{source.stem}_s{number:03d}.png" if recipe.crop_size else f"{source.stem}.png"
        row = {
            **provenance,
            "file": f"{split}/{name}",
            "source": source.name,
            "source_sha256": digest,
            "sha256": write_png(out / split / name, crop),
            "width": str(columns_wide),
            "height": str(rows_high),
            "top": str(top),
            "left": str(left),
            "std": f"{std:.2f}",
            "gradient": f"{gradient:.2f}",
            "lr_file": "",
            "lr_sha256": "",
            "split": split,
        }
        if small is not None:
            y, x = top // scale, left // scale
            low = small[y : y + rows_high // scale, x : x + columns_wide // scale]
            row["lr_file"] = f"{split}_LRx{scale}/{name}"
            row["lr_sha256"] = write_png(out / row["lr_file"], np.ascontiguousarray(low))
        rows.append(row)
    record = {
        "source": source.name,
        "split": split,
        "stem": source.stem,
        "sha256": digest,
        "recipe": repr(recipe),
        "crops": str(len(rows)),
        "flat": str(len(boxes) - len(rows)),
        "too_small": "" if boxes else f"{image.shape[1]}x{image.shape[0]}",
    }
    return Outcome(source, rows, record)


class Ledger:
    """The manifest and the list of sources of an output folder, read if they are there.

    Args:
        out: Output folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rows: dict[tuple[str, str], list[Row]] = {}
        self.records: dict[tuple[str, str], Row] = {}
        if (out / "manifest.tsv").is_file():
            for row in read_tsv(out / "manifest.tsv", MANIFEST_COLUMNS):
                self.rows.setdefault((row["split"], row["source"]), []).append(row)
        if (out / "sources.tsv").is_file():
            for row in read_tsv(out / "sources.tsv", SOURCE_COLUMNS):
                self.records[row["split"], row["source"]] = row

    def owners(self, split: str) -> dict[str, str]:
        """Which source each stem of a split belongs to."""
        return {record["stem"]: name for (other, name), record in self.records.items() if other == split}

    def finished(self, source: Source, split: str, recipe: Recipe, provenance: Row) -> Outcome | None:
        """The outcome of an earlier run of this very image and recipe, if all of its files are there and whole."""
        record = self.records.get((split, source.name))
        rows = self.rows.get((split, source.name), [])
        if record is None or record["recipe"] != repr(recipe) or record["crops"] != str(len(rows)):
            return None
        if file_sha256(source.path) != record["sha256"]:
            return None
        wanted = [(row["file"], row["sha256"]) for row in rows]
        wanted += [(row["lr_file"], row["lr_sha256"]) for row in rows if row["lr_file"]]
        if not all((self.out / file).is_file() and file_sha256(self.out / file) == sha for file, sha in wanted):
            return None
        return Outcome(source, [{**row, **provenance} for row in rows], record, kept=True)

    def replace(self, split: str, outcome: Outcome) -> None:
        """Take a source's new rows in, and delete files that an older recipe made and this one did not."""
        key = (split, outcome.source.name)
        fresh = {row[name] for row in outcome.rows for name in ("file", "lr_file")}
        for row in self.rows.get(key, []):
            for name in ("file", "lr_file"):
                if row[name] and row[name] not in fresh:
                    (self.out / row[name]).unlink(missing_ok=True)
        assert outcome.record is not None
        self.rows[key] = outcome.rows
        self.records[key] = outcome.record

    def split_rows(self, split: str) -> list[Row]:
        """All manifest rows of a split."""
        return [row for (other, _), rows in self.rows.items() if other == split for row in rows]

    def save(self) -> None:
        """Write both tables."""
        rows: Sequence[Row] = [row for group in self.rows.values() for row in group]
        write_tsv(self.out / "manifest.tsv", MANIFEST_COLUMNS, rows)
        write_tsv(self.out / "sources.tsv", SOURCE_COLUMNS, self.records.values())
