"""Throw damaged files and odd options at the command and look for tracebacks.

python benchmarks/scripts/fuzz.py --minutes 10

Files are those of tests/helpers/corpus.py with bytes changed, cut, doubled or swapped; options are drawn at random,
sensible and not. The command runs in this process, with a tiny network of random weights. A traceback, an
unexpected error, another exit code than the documented ones or a temporary file left behind is a finding, and kept.
Exit codes: 0 nothing found, 1 something.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

OPTIONS: dict[str, list[str]] = {
    "--steps": ["1", "2", "3", "0", "-1", "x", "99999999999999999999"],
    "--seed": ["0", "-5", "18446744073709551616", "1e3", ""],
    "--tile": ["0", "1", "7", "9999", "-3", "a"],
    "--halo": ["0", "3", "64", "-1"],
    "--outscale": ["0.1", "1", "3.7", "0", "nan", "inf", "-2", "1e9"],
    "--width": ["1", "50", "0", "x"],
    "--max-side": ["1", "33", "100000"],
    "--max-pixels": ["0.00001", "1", "0", "nan"],
    "--max-memory": ["1K", "1G", "900M", "", "G", "0"],
    "--quality": ["1", "100", "0", "101"],
    "--fidelity": ["0", "0.3", "1", "2", "nan"],
    "--color-fix": ["wavelet", "adain", "none", "red"],
    "--ext": ["png", "jpg", "webp", "tiff", "avif", "gif"],
    "--suffix": ["_x4", "/../x", "é", "a" * 300, "\n"],
    "--n-samples": ["1", "2", "0"],
    "--batch": ["1", "3"],
    "--workers": ["1", "4", "0"],
    "--dtype": ["fp32", "bf16", "int8", "fp8"],
    "--backend": ["torch", "onnx", "none"],
    "--device": ["cpu", "auto", "cuda:9", "tpu", ""],
}
FLAGS = ["--recursive", "--frames", "--compare", "--uncertainty", "--tta", "--consistency", "--overwrite", "--resume"]


def damaged(data: bytes, dice: random.Random) -> bytes:
    """``data`` with a few random changes."""
    content = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 5, 20))):
        if not content:
            break
        at = dice.randrange(len(content))
        kind = dice.randrange(5)
        if kind == 0:
            content[at] = dice.randrange(256)
        elif kind == 1:
            del content[at : at + dice.choice((1, 4, 100))]
        elif kind == 2:
            content[at:at] = content[at : at + dice.choice((1, 8, 64))]
        elif kind == 3:
            content[at : at + 4] = dice.randbytes(4)
        else:
            del content[at:]
    return bytes(content)


def arguments_of(dice: random.Random, source: Path, output: Path, weights: Path) -> list[str]:
    """A random command line."""
    out = ["-i", str(source), "-o", str(output), "--model", str(weights)]
    for name in dice.sample(sorted(OPTIONS), dice.choice((0, 1, 2, 3))):
        out += [f"{name}={dice.choice(OPTIONS[name])}"]
    return out + dice.sample(FLAGS, dice.choice((0, 0, 1, 2)))


def attempt(arguments: list[str]) -> tuple[int, str]:
    """Exit code and stderr of one run of the command.

    Raises:
        Exception: whatever escapes the command.
    """
    from amd_restore.apps.cli import main

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(arguments)
        except SystemExit as stop:  # argparse's way to end
            code = int(stop.code or 0)
    return code, said.getvalue()


def main_fuzz() -> int:
    """Run for the wanted time; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("results/fuzz"), help="where findings go")
    options = parser.parse_args()
    import torch
    from corpus import build
    from tiny_model import save_tiny

    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp())
    weights = save_tiny(work / "tiny.safetensors", degradation="bicubic")
    originals = [case.path.read_bytes() for case in build(work / "corpus") if case.path.is_file()]
    originals = [data for data in originals if len(data) < 200_000]
    suffixes = [".png", ".jpg", ".tif", ".webp", ".bmp", ".gif", ".avif", ".heic", ".txt"]
    dice, codes, findings, files = random.Random(options.seed), Counter[int](), 0, 0
    end = time.monotonic() + 60 * options.minutes
    runs = 0
    while time.monotonic() < end:
        runs += 1
        source, output = work / "in", work / "out"
        for folder in (source, output):
            shutil.rmtree(folder, ignore_errors=True)
        source.mkdir()
        for number in range(dice.choice((1, 3, 6))):
            data = dice.choice(originals)
            name = f"{number}{dice.choice(suffixes)}"
            (source / name).write_bytes(data if dice.random() < 0.3 else damaged(data, dice))
            files += 1
        whole = source if dice.random() < 0.8 else source / "0.png"
        arguments = arguments_of(dice, whole, output, weights)
        try:
            code, said = attempt(arguments)
            problem = "" if code in (0, 1, 2) else f"exit code {code}"
            if "Traceback" in said or "unexpected " in said:
                problem = said
            if list(output.rglob("*.part")):
                problem = "temporary file left"
            codes[code] += 1
        except Exception:
            problem = traceback.format_exc()
        if problem:
            findings += 1
            kept = options.keep / f"{options.seed}_{runs}"
            shutil.copytree(source, kept, dirs_exist_ok=True)
            (kept / "finding.json").write_text(json.dumps({"arguments": arguments, "problem": problem}, indent=1))
            sys.stdout.write(f"{kept}: {problem.strip().splitlines()[-1][:300]}\n")
            sys.stdout.flush()
    shutil.rmtree(work, ignore_errors=True)
    sys.stdout.write(f"{runs} runs, {files} files, exit codes {dict(sorted(codes.items()))}, {findings} findings\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main_fuzz())
