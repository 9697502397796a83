"""What is left of text: character error rates of what a public reader reads in restored images, by severity.

    python benchmarks/scripts/legibility.py make --out datasets/data/legibility
    python benchmarks/scripts/peers/run.py --peers all --input datasets/data/legibility --datasets clean web phone heavy
        --output results/legibility
    python benchmarks/scripts/legibility.py read --sets datasets/data/legibility --peers results/legibility

``make`` draws lines of words and numbers in Pillow's own font, which no training text has, and degrades them as
``datasets/make_severity_sets.py`` does. ``read`` restores them, reads all results by the recognition network of
rapidocr-onnxruntime (fetched into ``--cache``, run by ONNX Runtime) and prints a Markdown table: edit distance of the
text read to the text drawn, spaces left out, over the length of the latter. Exit codes: 0 done, 2 an error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path += [str(REPOSITORY / "datasets"), str(REPOSITORY / "benchmarks/scripts/peers")]
from make_severity_sets import SEVERITIES, degrade  # noqa: E402
from peer import Package, PeerError, unpack  # noqa: E402
from tools.image_files import read_image, read_tsv, write_png, write_tsv  # noqa: E402

from amd_restore.data.image_files import list_images  # noqa: E402
from amd_restore.errors import AMDRestoreError, Parser, run_command, say  # noqa: E402
from amd_restore.pipeline import load_pipeline  # noqa: E402

READER = Package(
    "PyPI",
    "rapidocr-onnxruntime",
    "1.4.4",
    "Apache-2.0",
    "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    r"/models/ch_PP-OCRv4_rec_infer\.onnx$|LICENSE$",
)
HEIGHT = 48  # the rows of pixels that the recognition network takes
WORDS = "quartz harbour window January bridge seventeen copper orchard Vienna thunder ladder marble cousin Friday"
LINES = 24
Images = dict[str, np.ndarray]  # by name, uint8 (H, W, 3), BGR


def make(out: Path, seed: int = 2026) -> None:
    """Write ``GT``, the severities and ``texts.tsv`` (name, text)."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(LINES):
        words = [*rng.choice(WORDS.split(), 2, replace=False), f"{rng.integers(10, 9999)}"]
        text, name = " ".join(rng.permutation(words)), f"line_{number:02}"
        image = draw(text, int(rng.integers(28, 57)), rng)
        write_png(out / f"GT/{name}.png", image)
        for severity in SEVERITIES:
            write_png(out / severity / f"{name}.png", degrade(image, name, severity, seed))
        rows.append({"name": name, "text": text})
    write_tsv(out / "texts.tsv", ("name", "text"), rows)


def draw(text: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """A line of text, dark on light or light on dark: uint8 (H, W, 3), BGR, sides multiples of 4."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(text)
    width, height = (int(np.ceil((side + size) / 4)) * 4 for side in (right - left, bottom - top))
    dark, light = (tuple(int(value) for value in rng.integers(low, low + 70, 3)) for low in (0, 186))
    ink, paper = (dark, light) if rng.random() < 0.5 else (light, dark)
    image = Image.new("RGB", (width, height), paper)
    ImageDraw.Draw(image).text((size / 2 - left, size / 2 - top), text, fill=ink, font=font)
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])


class Reader:
    """PP-OCRv4's recognition network on one line of text.

    Args:
        cache: folder for its package.

    Raises:
        PeerError: the package cannot be had.
    """

    def __init__(self, cache: Path) -> None:
        import onnxruntime

        model = unpack(READER, cache) / "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
        self.session: Any = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        letters = self.session.get_modelmeta().custom_metadata_map["character"].splitlines()
        # Class 0 parts repeated letters. Spaces come and go with the width of a gap, hence they do not count.
        self.letters = ["", *letters, ""]

    def __call__(self, image: np.ndarray) -> str:
        """Letters of an image uint8 (H, W, 3), BGR, without spaces: the best class of each column, repetitions once."""
        width = round(HEIGHT * image.shape[1] / image.shape[0])
        scaled = cv2.resize(image, (width, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        planes = (scaled / 127.5 - 1.0).transpose(2, 0, 1)[None]
        (scores,) = self.session.run(None, {"x": planes})
        best = scores[0].argmax(-1)
        kept = best[np.flatnonzero(np.diff(best, prepend=0))]
        return "".join(self.letters[index] for index in kept)


def edit_distance(a: str, b: str) -> int:
    """Letters to insert, delete or replace (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (letter != other))
    return row[-1]


def restore(weights: str, inputs: Images) -> Images:
    """One step of the released weights, or of ``auto``, noise seed 0."""
    pipeline = load_pipeline(weights, "cpu", torch.float32)
    results = {}
    for name, image in inputs.items():
        lq = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)[None].float() / 255
        sr = pipeline(lq, num_steps=1, seed=0)[0].mul(255).round().byte().permute(1, 2, 0).numpy()
        results[name] = np.ascontiguousarray(sr[:, :, ::-1])
    return results


def read(sets: Path, peers: Path, weights: Sequence[str], reader: Callable[[np.ndarray], str]) -> str:
    """Table of character error rates: a row per method, a column per severity."""
    texts = {row["name"]: row["text"].replace(" ", "") for row in read_tsv(sets / "texts.tsv", ("name", "text"))}

    def load(folder: Path) -> Images:
        images = {path.stem: read_image(path) for path in list_images(folder, is_deep=True)}
        if images.keys() != texts.keys():
            raise AMDRestoreError(f"{folder}: not the images of {sets / 'texts.tsv'}; make it anew")
        return images

    def rate(images: Images) -> str:
        wrong = sum(edit_distance(reader(image), texts[name]) for name, image in images.items())
        return f"{wrong / sum(map(len, texts.values())):.3f}"

    inputs = {severity: load(sets / severity) for severity in SEVERITIES}
    rows = {"ground truth": [rate(load(sets / "GT"))] * len(inputs)}
    rows["input, not restored"] = [rate(images) for images in inputs.values()]
    for name in weights:
        rows[f"{name}, 1 step"] = [rate(restore(name, images)) for images in inputs.values()]
    for folder in sorted(path for path in peers.glob("*/") if any(path.glob("*/*.png"))):
        rows[folder.name] = [rate(load(folder / severity)) for severity in SEVERITIES]
    lines = [f"| method | {' | '.join(SEVERITIES)} |", "|---" * (len(SEVERITIES) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(values)} |" for name, values in rows.items())])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("--out", type=Path, default=Path("datasets/data/legibility"))
    reading = commands.add_parser("read")
    reading.add_argument("--sets", type=Path, default=Path("datasets/data/legibility"))
    reading.add_argument("--peers", type=Path, default=Path("results/legibility"))
    reading.add_argument("--weights", nargs="+", default=["x4-real", "x4-classical"])
    reading.add_argument("--cache", type=Path, default="~/.cache/amd_restore_peers")
    args = parser.parse_args(arguments)

    def command() -> None:
        if args.command == "make":
            return make(args.out)
        try:
            reader = Reader(args.cache.resolve())
        except PeerError as error:
            raise AMDRestoreError(str(error)) from error
        return say(read(args.sets, args.peers, args.weights, reader))

    return run_command(command, args.debug)


if __name__ == "__main__":
    sys.exit(main())
