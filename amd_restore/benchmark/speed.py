"""Speed of methods: ours measured here, others as measured by their runner."""

from __future__ import annotations

import csv
import io
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from amd_restore.benchmark.evaluate import Result
from amd_restore.benchmark.methods import Bicubic, Folder, Method
from amd_restore.benchmark.options import BenchmarkOptions, SpeedOptions
from amd_restore.errors import AMDRestoreError

PEERS_FILE = "peers.json"  # written by benchmarks/scripts/peers/run.py next to the folders of results
HERE = "this run"


@dataclass(frozen=True)
class Speed:
    """Speed of a row.

    Attributes:
        method: name of the row.
        seconds: median for one input of ``speed.side`` pixels; None if not measured.
        per_image: data set -> median over its images, in their own sizes.
        threads: CPU threads.
        machine: processor.
        source: origin: this run, or the peers' runner and its date.
    """

    method: str
    seconds: float | None
    per_image: dict[str, float]
    threads: int
    machine: str
    source: str


def measure_speed(
    methods: Sequence[Method], options: SpeedOptions, progress: Callable[[str], object] = lambda name: None
) -> dict[str, float]:
    """Measure rows that run here on an input of noise: row -> median seconds.

    Rounds go over all methods, so that disturbances affect all of them.
    """
    lq = torch.rand(1, 3, options.side, options.side, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    found = ((method.name, method.timed_call(lq)) for method in methods)
    calls = {name: call for name, call in found if call is not None}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(options.warm_up + options.repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            spent = time.perf_counter() - start
            progress(name)
            if number >= options.warm_up:
                seconds[name].append(spent)
    for method in methods:
        method.release()
    return {name: statistics.median(values) for name, values in seconds.items()}


def collect(
    methods: Sequence[Method],
    results: Sequence[Result],
    measured: Mapping[str, float],
    options: BenchmarkOptions,
    protocol: Mapping[str, Any],
) -> list[Speed]:
    """Return the known speeds of rows, in the order of the rows.

    Args:
        methods: rows.
        results: measurements with seconds per image.
        measured: result of :func:`measure_speed`, or empty.
        options: benchmark.
        protocol: machine and threads of this run.

    Raises:
        AMDRestoreError: a damaged file of the peers' runner.
    """
    rows = []
    for method in methods:
        if isinstance(method, Folder):
            rows += _of_peer(method, options)
            continue
        if isinstance(method, Bicubic):
            continue  # This bicubic is an exact loop in Python, slower than those in use.
        timed = method.name in measured
        of_method = [one for one in results if one.method.name == method.name and is_timed(one)]
        per_image = {one.dataset: float(np.median(one.seconds)) for one in of_method}
        if timed or per_image:
            threads, machine = int(protocol["threads"]), str(protocol["machine"])
            rows.append(Speed(method.name, measured.get(method.name), per_image, threads, machine, HERE))
    return rows


def is_timed(result: Result) -> bool:
    """Return whether the seconds are those of a restoration in this run; a folder's are those of reading a file."""
    return not isinstance(result.method, Folder) and not np.isnan(result.seconds).any()


def _of_peer(method: Folder, options: BenchmarkOptions) -> list[Speed]:
    """Return the speed recorded by the peers' runner for the folder of this name, on these data sets."""
    file = method.path.parent / PEERS_FILE
    if not file.is_file():
        return []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        entries = [e for e in content["entries"] if e["peer"] == method.path.name and "reason" not in e]
        if not entries:
            return []
        side = options.speed.side if options.speed else 128
        last = entries[-1]
        at_side = [e.get(f"seconds_{side}_to_{side * options.scale}") for e in entries]
        known = [float(seconds) for seconds in at_side if seconds is not None]
        per_image = {e["dataset"]: float(e["seconds_per_image"]) for e in entries if e["dataset"] in options.datasets}
        machine = str(last.get("machine") or content["machine"])
        source = f"{PEERS_FILE}, {last.get('date') or content['date']}"
        return [Speed(method.name, known[-1] if known else None, per_image, int(last["threads"]), machine, source)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AMDRestoreError(
            f"{file}: not what benchmarks/scripts/peers/run.py writes ({error}); run it again"
        ) from error


def ratio(row: Speed, baseline: Speed) -> float | None:
    """Return the speed relative to ``baseline``; None for different machines or threads."""
    if not row.seconds or not baseline.seconds:
        return None
    alike = row.threads == baseline.threads and row.machine == baseline.machine
    return baseline.seconds / row.seconds if alike else None


def speed_markdown(rows: Sequence[Speed], options: BenchmarkOptions) -> str:
    """Return the table of speed."""
    assert options.speed is not None
    side, baselines = options.speed.side, _baselines(rows, options)
    datasets = [name for name in options.datasets if any(name in row.per_image for row in rows)]
    heads = ["method", f"s, {side}x{side} -> {side * options.scale}x{side * options.scale}"]
    heads += [f"times as fast as {baseline.method}" for baseline in baselines]
    heads += [f"s / image, {name}" for name in datasets] + ["threads", "measured"]
    lines = [f"# Benchmark {options.name}: speed", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row.method, _number(row.seconds)]
        cells += [_number(ratio(row, baseline), 1) for baseline in baselines]
        cells += [_number(row.per_image.get(name)) for name in datasets]
        lines.append(f"| {' | '.join([*cells, str(row.threads), row.source])} |")
    lines += ["", "## Protocol", ""]
    lines += [
        f"- First column: median of {options.speed.repeats} calls after {options.speed.warm_up} that were not timed, "
        "rows in turn, whole calls of the pipeline (noise, network, decoding), nothing read or written, in the run "
        "that wrote this table. Seconds per image: median over images and runs, at the time they were first measured.",
        f"- Rows from {PEERS_FILE}: medians of benchmarks/scripts/peers/run.py, each peer in a process of its own.",
        "- – where nobody measured, or where machine or threads differ, so that a ratio would mean nothing.",
    ]
    lines += [f"- {machine}: {', '.join(names)}." for machine, names in _machines(rows).items()]
    return "\n".join(lines) + "\n"


def speed_csv(rows: Sequence[Speed], options: BenchmarkOptions) -> str:
    """Return CSV: one line per method and input."""
    assert options.speed is not None
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "input", "seconds", "threads", "machine", "source"])
    for row in rows:
        inputs = {f"{options.speed.side}x{options.speed.side}": row.seconds, **row.per_image}
        for name, seconds in inputs.items():
            if seconds is not None:
                writer.writerow([row.method, name, seconds, row.threads, row.machine, row.source])
    return out.getvalue()


def speed_json(rows: Sequence[Speed], options: BenchmarkOptions, protocol: Mapping[str, Any]) -> str:
    """Return everything as JSON, with ratios."""
    baselines = _baselines(rows, options)
    entries = [{**asdict(row), "times_as_fast_as": {b.method: ratio(row, b) for b in baselines}} for row in rows]
    settings = asdict(options.speed) if options.speed else None
    return json.dumps({"protocol": dict(protocol), "speed": settings, "rows": entries}, indent=1) + "\n"


def _baselines(rows: Sequence[Speed], options: BenchmarkOptions) -> list[Speed]:
    by_name = {row.method: row for row in rows}
    wanted = options.speed.baselines if options.speed else []
    return [by_name[name] for name in wanted if name in by_name]


def _machines(rows: Sequence[Speed]) -> dict[str, list[str]]:
    machines: dict[str, list[str]] = {}
    for row in rows:
        names = machines.setdefault(row.machine, [])
        if row.source not in names:
            names.append(row.source)
    return machines


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
