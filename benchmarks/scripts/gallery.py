"""Pictures of docs/gallery.md, the README and the model cards: inputs, bicubic, two peers, one step of ``auto``.

    python benchmarks/scripts/gallery.py --downloads FOLDER

cuts and degrades a photograph of scikit-image and some of the validation split (``datasets/prepare_free_photos.py``),
draws text and a drawing, runs the peers on them and on two files of ``lowres/`` (where results are missing or older
than the inputs; FOLDER holds the files of realesr-general-x4v3, see ``benchmarks/scripts/peers/README.md``), writes
``gallery_KIND.jpg``, ``before_after.jpg`` and ``failures.jpg`` to ``docs/images``, columns named. Half a minute with
the peers' results, some minutes without, on a CPU. Exit codes: 0 done, 2 an error.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from legibility import Images, draw, restore
from PIL import Image, ImageDraw, ImageFont

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path += [str(REPOSITORY / "datasets")]
from make_severity_sets import SEED, degrade  # noqa: E402
from tools.image_files import read_image, write_png  # noqa: E402

from amd_restore.errors import AMDRestoreError, Parser, run_command, say  # noqa: E402
from amd_restore.pipeline import AUTO, AUTO_MODELS  # noqa: E402

PEERS = {"realesrgan-x4plus": "Real-ESRGAN x4plus", "realesr-general-x4v3": "realesr-general-x4v3"}
SIDE = 256  # pixels of the ground truth, and of a picture's column
# kind: photograph of the validation split, left and top of the cut, severity
PHOTOGRAPHS = {
    "people": ("gcompris-qt-data__explore_world_music-mexico", 170, 40, "phone"),
    "night": ("palapeli-data__cincinnati-bridge", 0, 20, "phone"),
    "web": ("gcompris-qt-data__explore_monuments-greatWallofChina", 230, 200, "web"),
    "old": ("gcompris-qt-data__explore_monuments-mountRushmore", 150, 130, "heavy"),
}
PORTRAIT = (96, 0, "web")  # the same of ``skimage.data.astronaut``
TEXT = (("Gate 27, 9:45", 40), ("quay 1863 east", 33), ("tea 4.50, soup", 26))  # lines, and size of the font
KINDS = ("portrait", *PHOTOGRAPHS, "text", "drawing")
# What the README shows of lowres/: name of the row, file, left and top of the cut, whose side is LEAD_SIDE.
LEAD = (("clean", "red_panda.png", 60, 18), ("JPEG, quality 30", "kingfisher_jpeg.jpg", 70, 20))
LEAD_SIDE = 72
MUSIC = "gcompris-qt-data__explore_world_music"
# The model cards' failures: photograph of the validation split, severity, left and top of the cut.
FAILURES = (
    (f"{MUSIC}-mexico", "clean", 88, 60),
    (f"{MUSIC}-japan", "clean", 100, 90),
    (f"{MUSIC}-orchestra", "clean", 160, 130),
    (f"{MUSIC}-mexico", "phone", 88, 60),
)
FAILURE_SIDE = 224
LETTERS = 22  # height of the font in a picture that a page shows at about two thirds of its size
STRIP = 34  # rows of pixels that a line of names takes


def drawing() -> np.ndarray:
    """A face of flat colours and outlines: uint8 (SIDE, SIDE, 3), BGR."""
    image = np.full((4 * SIDE, 4 * SIDE, 3), (214, 180, 120), np.uint8)
    ink = (40, 30, 30)
    cv2.rectangle(image, (0, 760), (1023, 1023), (90, 150, 60), -1)
    for centre, radius, colour in (((512, 540), 330, (120, 190, 250)), ((390, 480), 70, (255, 255, 255))):
        cv2.circle(image, centre, radius, colour, -1, cv2.LINE_AA)
        cv2.circle(image, centre, radius, ink, 14, cv2.LINE_AA)
    cv2.circle(image, (634, 480), 70, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(image, (634, 480), 70, ink, 14, cv2.LINE_AA)
    for x in (405, 619):
        cv2.circle(image, (x, 490), 26, (110, 80, 20), -1, cv2.LINE_AA)
    cv2.ellipse(image, (512, 640), (150, 90), 0, 15, 165, ink, 12, cv2.LINE_AA)
    for k in range(9):
        cv2.line(image, (240 + 68 * k, 300 - 9 * k % 40), (220 + 75 * k, 120), ink, 6, cv2.LINE_AA)
    return np.asarray(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def make(photographs: Path, out: Path) -> None:
    """Write ``out/KIND.png``, a quarter of ``SIDE`` wide, and copy the README's inputs there."""
    from skimage.data import astronaut

    def cut(photograph: np.ndarray, kind: str, left: int, top: int, severity: str) -> None:
        truth = np.ascontiguousarray(photograph[top : top + SIDE, left : left + SIDE])
        if kind == "old":  # an old print, imitated: without colours, blurred, grainy, scanned as JPEG
            truth = (truth @ np.array([0.114, 0.587, 0.299]))[..., None].repeat(3, 2).astype(np.uint8)
        keep_png(out / f"{kind}.png", degrade(truth, kind, severity, SEED))

    cut(astronaut()[:, :, ::-1], "portrait", *PORTRAIT)
    for kind, (name, *place) in PHOTOGRAPHS.items():
        cut(read_image(photographs / f"{name}.png"), kind, *place)
    lines = [draw(text, size, np.random.default_rng(SEED)) for text, size in TEXT]
    text = np.full((SIDE, SIDE, 3), lines[0][0, 0], np.uint8)
    for top, line in zip(range(0, SIDE, SIDE // len(lines)), lines, strict=False):
        rows, columns = min(len(line), SIDE // len(lines)), min(line.shape[1], SIDE)
        text[top : top + rows, :columns] = line[:rows, :columns]
    keep_png(out / "text.png", degrade(text, "text", "phone", SEED))
    keep_png(out / "drawing.png", degrade(drawing(), "drawing", "web", SEED))
    for _, file, *_ in LEAD:
        keep_png(out / f"{Path(file).stem}.png", read_image(REPOSITORY / "lowres" / file))


def keep_png(file: Path, image: np.ndarray) -> None:
    """Write an image unless the file has these pixels, so that its date is that of its last change."""
    if not file.is_file() or not np.array_equal(read_image(file), image):
        write_png(file, image)


def run_peers(results: Path, downloads: Path | None) -> None:
    """Restore ``results/inputs`` by the peers into ``results/PEER/inputs``, those that lack a current result only.

    Raises:
        AMDRestoreError: a result is still missing; the peers' command has said why.
    """
    script = [sys.executable, str(REPOSITORY / "benchmarks/scripts/peers/run.py"), "--datasets", "inputs"]
    script += ["--input", str(results), "--output", str(results), "--repeats", "0"]
    inputs = sorted((results / "inputs").glob("*.png"))
    for peer in PEERS:
        pairs = [(file, results / peer / "inputs" / file.name) for file in inputs]
        if any(not done.is_file() or done.stat().st_mtime < file.stat().st_mtime for file, done in pairs):
            more = ["--downloads", str(downloads)] if downloads else []
            subprocess.run([*script, "--peers", peer, *more], check=False)
        for _, done in pairs:
            if not done.is_file():
                raise AMDRestoreError(f"{done}: missing; {peer} did not run, for the reason above")


def columns(name: str, results: Path, ours: np.ndarray) -> list[np.ndarray]:
    """The input by bicubic interpolation, the peers' results and ours, all of one size."""
    height, width = ours.shape[:2]
    enlarged = cv2.resize(read_image(results / f"inputs/{name}.png"), (width, height), interpolation=cv2.INTER_CUBIC)
    return [enlarged, *(read_image(results / f"{peer}/inputs/{name}.png") for peer in PEERS), ours]


def strip(names: Sequence[str], width: int) -> np.ndarray:
    """A line of names, each centred over a column of ``width`` pixels: uint8 (STRIP, names * width, 3)."""
    image = Image.new("RGB", (len(names) * width, STRIP), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(LETTERS)
    for number, name in enumerate(names):
        pen.text(((number + 0.5) * width, STRIP / 2), name, fill=(30, 30, 30), font=font, anchor="mm")
    return np.asarray(image)


def name_row(row: np.ndarray, name: str) -> np.ndarray:
    """Write the name of a row onto its lower left corner."""
    image = Image.fromarray(row)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(LETTERS)
    place = (8, row.shape[0] - 8)
    left, top, right, bottom = pen.textbbox(place, name, font=font, anchor="lb")
    pen.rectangle((left - 8, top - 5, right + 8, bottom + 8), fill="white")
    pen.text(place, name, fill=(30, 30, 30), font=font, anchor="lb")
    return np.asarray(image)


def show(model: str, results: Path, out: Path) -> None:
    """Write the pictures of the gallery and of the README."""
    names = [*PEERS.values(), f"{model} (ours)"]
    lq: Images = {file.stem: read_image(file) for file in sorted((results / "inputs").glob("*.png"))}
    ours = restore(model, lq)
    for kind in KINDS:
        enlarged = cv2.resize(lq[kind], (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
        row = np.hstack([enlarged, *columns(kind, results, ours[kind])])
        write_jpeg(out / f"gallery_{kind}.jpg", [strip(["input, enlarged", "bicubic", *names], SIDE), row])
    rows, side = [], 4 * LEAD_SIDE
    for title, file, *place in LEAD:
        name, (left, top) = Path(file).stem, (4 * value for value in place)
        cuts = [part[top : top + side, left : left + side] for part in columns(name, results, ours[name])]
        rows.append(name_row(np.hstack(cuts), title))
    write_jpeg(out / "before_after.jpg", [strip(["input, bicubic", *names], side), *rows])


def show_failures(photographs: Path, out: Path) -> None:
    """Write what the models for clean and for damaged inputs do wrong, beside the ground truth."""
    truths, lq = [], {}
    for number, (name, severity, *_) in enumerate(FAILURES):
        truth = read_image(photographs / f"{name}.png")
        truths.append(truth[: len(truth) // 4 * 4, : truth.shape[1] // 4 * 4])
        lq[f"{number}"] = degrade(truths[number], name, severity, SEED)
    models = (AUTO_MODELS["clean"], AUTO_MODELS["heavy"])
    results = [restore(weights, lq) for weights in models]
    rows = []
    for number, (_, severity, left, top) in enumerate(FAILURES):
        truth, small = truths[number], lq[f"{number}"]
        enlarged = cv2.resize(small, truth.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        parts = [enlarged, *(images[f"{number}"] for images in results), truth]
        cuts = [part[top : top + FAILURE_SIDE, left : left + FAILURE_SIDE] for part in parts]
        rows.append(name_row(np.hstack(cuts), {"phone": "blur, noise, JPEG"}.get(severity, severity)))
    write_jpeg(out / "failures.jpg", [strip(["input, bicubic", *models, "ground truth"], FAILURE_SIDE), *rows])


def write_jpeg(file: Path, rows: Sequence[np.ndarray]) -> None:
    """Write rows of one width, uint8 BGR, below each other."""
    cv2.imwrite(str(file), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 90])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=AUTO, help="released name, weights file, or auto")
    parser.add_argument("--photographs", type=Path, default=Path("datasets/data/free_photos/val"))
    parser.add_argument("--results", type=Path, default=Path("results/gallery"), help="inputs and peers' results")
    parser.add_argument("--downloads", type=Path, help="files of realesr-general-x4v3 that you have downloaded")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs/images")
    args = parser.parse_args(argv)

    def command() -> None:
        make(args.photographs, args.results / "inputs")
        run_peers(args.results, args.downloads)
        show(args.model, args.results, args.out)
        show_failures(args.photographs, args.out)
        say(f"{len(KINDS) + 2} pictures in {args.out}")

    return run_command(command, args.debug, parser.prog)


if __name__ == "__main__":
    sys.exit(main())
