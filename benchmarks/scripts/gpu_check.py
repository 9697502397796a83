"""What a GPU has to show before a training is entrusted to it, in a few minutes, the likeliest faults first.

Command: python benchmarks/scripts/gpu_check.py [--minutes 15] [--out results/gpu_check] [--steps versions autocast ...]
Needs:   BasicSR and the weights of LPIPS (README); the networks are the released ones, the crops are made up.
Cost:    about 6 minutes on a GPU; with --miniature (tiny networks, for the tests) under a minute on a CPU.

The first failure ends it. Every result is appended to OUT/gpu_check.jsonl and OUT/gpu_check.md at once, so that nothing
is lost when the time is over; a step that would begin after that is noted as not reached.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpu_steps import Check


class Results:
    """The two files, a line for each step as soon as it is over."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.lines, self.table = out / "gpu_check.jsonl", out / "gpu_check.md"
        self.lines.write_text("", encoding="utf-8")
        self.table.write_text("| step | s | result |\n|---|---|---|\n", encoding="utf-8")

    def add(self, step: str, status: str, seconds: float, result: Mapping[str, Any]) -> None:
        """One step: ``ok``, ``failed`` or ``not reached``."""
        row = {"step": step, "status": status, "seconds": round(seconds, 1), "result": result}
        shown = ", ".join(f"{key} {value}" for key, value in result.items() if key != "traceback")
        for file, text in (
            (self.lines, json.dumps(row)),
            (self.table, f"| {step} | {seconds:.1f} | {status}: {shown} |"),
        ):
            with file.open("a", encoding="utf-8") as stream:
                stream.write(text + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        sys.stdout.write(f"{step}: {status} after {seconds:.1f} s: {shown}\n")
        sys.stdout.flush()


def run(check: Check, results: Results, names: list[str] | None, deadline: float) -> int:
    """All steps until one fails or the time is over: 0, 1 after a failure, 3 where not all were reached."""
    code = 0
    for name, step in check.steps().items():
        if names and name not in names:
            continue
        start = time.monotonic()
        if start > deadline:
            results.add(name, "not reached", 0.0, {})
            code = 3
            continue
        try:
            result = step()
        except Exception as error:  # whatever it is: it belongs into the file
            text = " ".join(str(error).split())[:300]
            result = {"error": f"{type(error).__name__}: {text}", "traceback": traceback.format_exc()}
            results.add(name, "failed", time.monotonic() - start, result)
            traceback.print_exc()
            return 1
        results.add(name, "ok", time.monotonic() - start, result)
    return code


@contextlib.contextmanager
def quiet_logs(folder: Path) -> Iterator[None]:
    """BasicSR's log lines go to a file only: the results stay readable."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as file, contextlib.redirect_stderr(file):
        yield


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0, help="no step begins after this time")
    parser.add_argument("--out", type=Path, default=Path("results/gpu_check"), help="folder of the results")
    parser.add_argument("--steps", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--miniature", action="store_true", help="tiny networks, also on a CPU: tries the script")
    args = parser.parse_args(argv)
    deadline = time.monotonic() + 60 * args.minutes
    results = Results(args.out)
    with quiet_logs(args.out):
        return run(Check(args.out / "runs", args.miniature), results, args.steps, deadline)


if __name__ == "__main__":
    sys.exit(main())
