"""Throw damaged files, odd options, folders and streams at the command and look at what comes of it.

    python benchmarks/scripts/fuzz.py --minutes 10
    python benchmarks/scripts/fuzz.py --seed 0 --first 123 --runs 1

Four kinds are tried in turn: files of tests/helpers/corpus.py with bytes changed, cut, doubled or swapped, and
options, sensible and not; the same files changed chunk by chunk; folders where outputs lie inside, beside and among
the inputs, with links and modes, again and again, and interrupted in between; streams that are closed, full, or read
no longer. The command runs in forks of this process, with a tiny network of random weights. A finding is a traceback,
a death or a hang; an exit code that does not fit; not one line for each problem; anything replaced that should stay,
half-written or left behind; and a second run that changes anything.

An attempt depends on the seed and its number alone (interruptions aside, which come at times): ``--first`` goes on
where another run ended, and with ``--runs 1`` tries one again. Exit codes: 0 nothing found, 1 something.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from fuzzing.attempts import KINDS, Bench, attempt  # noqa: E402

LARGEST = 200_000  # bytes of an original


def build_parser() -> argparse.ArgumentParser:
    """Parser of this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--runs", type=int, help="how many attempts at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=1, metavar="N", help="number of the first attempt")
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--keep", type=Path, default=Path("results/fuzz"), help="where findings go")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Try for the wanted time; returns the exit code."""
    options = build_parser().parse_args(arguments)
    work = Path(tempfile.mkdtemp())
    work.chmod(0o755)  # some runs are another user's
    try:
        bench = make_bench(work)
        number, findings, tried = options.first, 0, Counter[str]()
        end = time.monotonic() + 60 * options.minutes
        while time.monotonic() < end and (options.runs is None or number < options.first + options.runs):
            dice = random.Random(f"{options.seed} {number}")
            kind = options.kinds[number % len(options.kinds)]
            tried[kind] += 1
            if found := attempt(bench, kind, dice):
                findings += 1
                _keep(bench.place, options.keep / f"{options.seed}_{number}_{kind}", found)
            number += 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    codes = dict(sorted(Counter(bench.runs).items()))
    say(
        f"{dict(sorted(tried.items()))}, {len(bench.runs)} runs, exit codes {codes}, {findings} findings; next {number}"
    )
    return 1 if findings else 0


def make_bench(work: Path) -> Bench:
    """Originals, weights, and a command that has imported all it needs."""
    import torch
    from corpus import build
    from tiny_model import save_tiny

    from amd_restore.apps.cli import main as command
    from amd_restore.errors import AMDRestoreError
    from amd_restore.image_io import Picture, encode

    torch.set_num_threads(1)
    weights = save_tiny(work / "tiny.safetensors", degradation="bicubic")
    pixels = next(case.pixels for case in build(work / "corpus") if case.name == "mode_P.png")
    assert pixels is not None
    originals = [path.read_bytes() for path in sorted((work / "corpus").iterdir()) if path.is_file()]
    for suffix in (".heic", ".webp", ".jpg", ".avif", ".tiff"):
        try:
            originals.append(encode(Picture(pixels[..., :3]), suffix))
        except AMDRestoreError:  # HEIF needs a package that may be missing.
            continue
    good = [encode(Picture(pixels[:9, :12]), suffix) for suffix in (".png", ".tiff", ".bmp", ".webp")]
    bench = Bench(work, weights, [data for data in originals if 0 < len(data) < LARGEST], good, command)
    bench.clear()
    (bench.place / "in").mkdir()
    for number, data in enumerate(good):
        (bench.place / "in" / f"{number}.png").write_bytes(data)
    quiet, sys.stdout = sys.stdout, None  # type: ignore[assignment]  # as a closed stream
    try:
        code = command([f"-i={bench.place / 'in'}", f"-o={bench.place / 'out'}", f"--model={weights}", "--frames"])
    finally:
        sys.stdout = quiet
    if code:
        raise SystemExit("the command does not even restore good files")
    return bench


def _keep(place: Path, folder: Path, found: list[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(place, folder / "place", symlinks=True, ignore=lambda _, names: [n for n in names if "pipe" in n])
    (folder / "finding.txt").write_text("\n\n".join(found), encoding="utf-8", errors="backslashreplace")
    say(f"{folder}: {found[0].strip()[-600:]}")


def say(text: str) -> None:
    """Print at once, whatever the stream can show."""
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
