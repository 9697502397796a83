"""Seconds of 128x128 -> 512x512 by backend and arithmetic, beside two ncnn peers, in one run, as dated Markdown.

    python benchmarks/scripts/backends.py --threads 2 [--peers realesrgan-x4plus span-ch48] [--output FILE.md]

Every row runs in a process of its own (OpenMP pools of one runtime would disturb the next) and is visited ROUNDS
times, in turn, so that a slow minute of the machine meets all rows alike; after WARM_UP calls, REPEATS calls are
timed in each visit. The clock covers a whole call of the pipeline: noise, network, decoding; of a peer, its network
and the conversion from and to bytes. It means something only on a machine that does nothing else; processor seconds
(of all threads) stand beside, since they suffer less from company. Peers come from the cache of peers/run.py, which
fetches what is missing.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amd_restore.errors import Parser, run_command

WARM_UP, REPEATS, ROUNDS, SIDE = 3, 10, 3, 128
OURS = tuple(
    f"{backend} {dtype}"
    for backend, dtypes in (("torch", "fp32 bf16"), ("onnx", "fp32 int8"), ("openvino", "fp32 bf16 int8"))
    for dtype in dtypes.split()
)
PEERS = {"realesrgan-x4plus": ("realesrgan", "RealESRGANx4plus"), "span-ch48": ("span", "SpanCh48")}
BASE = "torch fp32"


def measure(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """Wall and processor seconds of each call, and what loading and the first call took."""
    start = time.perf_counter()
    run = _peer(row, options) if row in PEERS else _ours(row, options)
    loaded = time.perf_counter()
    run()
    first = time.perf_counter()
    heavy = row == "realesrgan-x4plus"  # a hundred times slower than the rest: fewer calls
    for _ in range(0 if heavy else WARM_UP - 1):
        run()
    wall, cpu = [], []
    for _ in range(1 if heavy else REPEATS):
        before, before_cpu = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - before)
        cpu.append(time.process_time() - before_cpu)
    return {"wall": wall, "cpu": cpu, "load": loaded - start, "first": first - loaded}


def _ours(row: str, options: argparse.Namespace) -> Callable[[], Any]:
    import torch

    from amd_restore.backends import load_network
    from amd_restore.pipeline import RestorationPipeline
    from amd_restore.weights import load_checkpoint, resolve_weights

    torch.set_num_threads(options.threads)
    backend, dtype = row.split()
    header, state = load_checkpoint(resolve_weights(options.weights))
    net = load_network(header, state, backend, dtype, options.threads)
    autocast = torch.bfloat16 if row == "torch bf16" else torch.float32
    pipeline = RestorationPipeline(header, net, "cpu", autocast)
    lq = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return lambda: pipeline(lq, num_steps=options.steps, tile=0)


def _peer(row: str, options: argparse.Namespace) -> Callable[[], Any]:
    import numpy as np

    sys.path.insert(0, str(Path(__file__).parent / "peers"))
    module, name = PEERS[row]
    peer = getattr(importlib.import_module(module), name)(options.cache, options.threads)
    peer.install()
    lq = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return lambda: peer.restore(lq)


def main() -> int:
    """Measure every row and write the table; 1 when a row of ours failed."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="x4-classical", help="released name, file or folder")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", nargs="+", choices=OURS, default=list(OURS), metavar="ROW", help=", ".join(OURS))
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS), default=list(PEERS))
    parser.add_argument("--cache", type=Path, default="~/.cache/amd_restore_peers")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", type=Path, help="Markdown file (default: standard output)")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        sys.stdout.write("\n" + json.dumps(measure(options.row, options)))
        return 0
    rows = [*options.rows, *options.peers]
    results: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
    failures: dict[str, str] = {}
    for _ in range(options.rounds):
        for row in rows:
            if row not in failures:
                outcome = _in_own_process(row, options)
                if isinstance(outcome, str):
                    failures[row] = outcome
                else:
                    results[row].append(outcome)
    text = table(results, failures, options)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return int(any(row in OURS for row in failures))


def table(results: dict[str, list[dict[str, Any]]], failures: dict[str, str], options: argparse.Namespace) -> str:
    """The page; ratios are of medians, to torch in float32."""
    from amd_restore.benchmark.provenance import processor  # imports torch: not for the processes that are measured

    def seconds(row: str, kind: str) -> list[float]:
        return [value for visit in results[row] for value in visit[kind]]

    base = statistics.median(seconds(BASE, "wall")) if results.get(BASE) else float("nan")
    steps = f"{options.steps} step{'s' * (options.steps > 1)}"
    lines = [
        f"# Backends, {datetime.datetime.now(datetime.UTC).date().isoformat()}",
        "",
        f"`python benchmarks/scripts/backends.py --weights {options.weights} --steps {options.steps} "
        f"--threads {options.threads}`: {SIDE}x{SIDE} -> x4, batch 1, {steps}. {processor()}, {_versions()}. "
        f"{options.rounds} rounds of {WARM_UP} calls to warm up and {REPEATS} timed ones (Real-ESRGAN: 1 and 1).",
        "",
        "| row | median s | fastest s | cpu s | times torch fp32 | load s | first call s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, visits in results.items():
        if row in failures:
            lines.append(f"| {row} | {failures[row]} | | | | | |")
            continue
        wall, cpu = seconds(row, "wall"), seconds(row, "cpu")
        load, first = (statistics.median(visit[kind] for visit in visits) for kind in ("load", "first"))
        lines.append(
            f"| {row} | {statistics.median(wall):.4f} | {min(wall):.4f} | {statistics.median(cpu):.4f} "
            f"| {statistics.median(wall) / base:.2f} | {load:.2f} | {first:.3f} |"
        )
    return "\n".join(lines) + "\n"


def _in_own_process(row: str, options: argparse.Namespace) -> dict[str, Any] | str:
    """Result of one visit, or the last line of what went wrong."""
    arguments = ["--weights", options.weights, "--steps", str(options.steps), "--threads", str(options.threads)]
    child = subprocess.run(
        [sys.executable, __file__, *arguments, "--cache", str(options.cache), "--row", row],
        env=os.environ | {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        return (child.stderr.strip().splitlines() or ["no message"])[-1][:160]
    result: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return result


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    def one(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"no {name}"

    return ", ".join(one(name) for name in ("torch", "onnxruntime", "openvino"))


if __name__ == "__main__":
    sys.exit(run_command(main))
