"""Write the tables of published numbers into the pages that show them, from ``benchmarks/*/*.json``.

    python benchmarks/scripts/results_page.py           # after a benchmark was measured again
    python benchmarks/scripts/results_page.py --check   # exit code 1 and the names of stale pages

A page marks a table by ``<!-- table:NAME -->`` and ``<!-- /table -->``; what lies between is replaced. Values are means
over images and runs, as in the benchmark's own page, and rounded once.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amd_restore.benchmark.metrics import METRICS, marks
from amd_restore.benchmark.provenance import file_hash
from amd_restore.errors import AMDRestoreError, run_command, say

BENCHMARKS = Path(__file__).resolve().parents[1]
WEIGHTS = BENCHMARKS.parent / "amd_restore" / "weights"
PAGES = (
    "README.md",
    "docs/results.md",
    "docs/experiments.md",
    "docs/debugging.md",
    "docs/model_card_x4_classical.md",
    "docs/model_card_x4_real.md",
)
# Files whose header alone was written again: their tensors, hence their images, are those of the released ones.
SAME_TENSORS = {
    "4ced77d4d69a381df8db3a729d63a0bf87a19d4cf40ce60b6e334fddf07ba8f7": (
        "7ed8b3f36f2b41d9fc674ff5fdf27c18a237cd39d7ae28c3b7077b7c3b6d6e8e"  # x4-real
    ),
    "ed2ed2c4f152dce73e87cabeda6cfd3ca3a2d0191f8c0bf53847ea4744001f54": (
        "8c1885debdd312600652b6caa847fa087e0e73dd8ae9cd89bb908379a2c042bb"  # x4-real-fast
    ),
    "2b35f4e051424019b2a5704e63cb66968993e025a73fbf2927d308395080c8cf": (
        "6d89d5ae3fb11c381d6675c66eb56a4ac285ce5346ead06f3899f156e91e3d3d"  # x4-classical
    ),
    "32983fe8c0d5a9f690937feee5d8685ed9952c33748ed4f4d6984ed6733a0a46": (
        "4b314f5edc756a25f79de65089faa8a8499898eb06f3b12d51dbf57fd40adb99"  # x2-real
    ),
    "6d69725e0829027910cec6b53582ed0592c2ad1568c512c8b53dec9c9d9f42cf": (
        "8372963cf3b3adbe10e2cbc8330eb505a679466e34355983c48bdf64e9aef321"  # x1-real
    ),
}
BLOCK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """A line of a table: its title, the row of a benchmark that it shows, and the row that it is compared with."""

    title: str
    benchmark: str
    method: str
    reference: str = ""


Cell = Callable[[Row], str]


@functools.cache
def content(benchmark: str, kind: str = "") -> dict[str, Any]:
    """What ``benchmarks/NAME/NAME.json`` holds, or with a ``kind`` such as ``_speed`` the file beside it."""
    loaded: dict[str, Any] = json.loads((BENCHMARKS / benchmark / f"{benchmark}{kind}.json").read_text("utf-8"))
    return loaded


def only(row: Row, entries: list[dict[str, Any]], **wanted: object) -> dict[str, Any]:
    """The one entry with these values.

    Raises:
        AMDRestoreError: where the benchmark has none, or several.
    """
    found = [entry for entry in entries if all(entry[key] == value for key, value in wanted.items())]
    if len(found) != 1:
        raise AMDRestoreError(f"benchmarks/{row.benchmark}: {len(found)} entries of {wanted}, one is needed")
    return found[0]


@functools.cache
def released(name: str) -> str:
    """SHA-256 of released weights, or an empty string for weights that are not released."""
    file = WEIGHTS / name
    return file_hash(file) if file.is_file() else ""


def is_earlier(row: Row, kind: str = "") -> bool:
    """Whether a row was measured with another version of weights than the released one, by their hashes."""
    protocol, label = content(row.benchmark, kind)["protocol"], row.method.partition(", ")[0]
    digests = {
        name.partition("/")[2]: digest
        for name, digest in protocol["weights"].items()
        if name.partition("/")[0] == label
    }
    return any(released(name) not in ("", SAME_TENSORS.get(digest, digest)) for name, digest in digests.items())


def value(row: Row, dataset: str, metric: str) -> str:
    """One mean, with the digits and the mark of its metric; a dash for a row that its benchmark calls absent."""
    gaps = content(row.benchmark).get("absent", [])
    if any((gap["method"], gap["dataset"]) == (row.method, dataset) for gap in gaps):
        return "–"
    result = only(row, content(row.benchmark)["results"], method=row.method, dataset=dataset)
    mean = float(np.mean(np.asarray(result["values"][metric], dtype=np.float64)))
    return f"{mean:.{METRICS[metric].digits}f}{marks(result['rewards']).get(metric, '')}"


def values(dataset: str, *metrics: str, between: str = " / ") -> Cell:
    """Metrics of a dataset, in one cell."""
    return lambda row: between.join(value(row, dataset, metric) for metric in metrics)


def seconds(row: Row) -> str:
    """Seconds of one input of 128x128 on two threads, in float32 and, where it was timed, in bf16.

    A dash where these weights were not timed.
    """
    if is_earlier(row, "_speed"):
        return "–"
    found = {entry["method"]: entry["seconds"] for entry in content(row.benchmark, "_speed")["rows"]}
    name, comma, steps = row.method.partition(", ")
    plain, half = found.get(row.method), found.get(f"{name}, bf16{comma}{steps}")
    text = "–" if plain is None else f"{plain:.2f}"
    return text if half is None else f"{text} (bf16 {half:.2f})"


def interval(difference: dict[str, Any], metric: str) -> str:
    """A difference with its 95% interval."""
    digits = METRICS[metric].digits
    low, high = (f"{difference[end]:+.{digits}f}" for end in ("low", "high"))
    return f"{difference['mean']:+.{digits}f} ({low}, {high})"


def minus(dataset: str, metric: str) -> Cell:
    """Mean difference of the row and its reference, with its interval over images."""

    def cell(row: Row) -> str:
        entries = content(row.benchmark)["comparisons"]
        if not any(
            (entry["a"], entry["b"], entry["dataset"]) == (row.method, row.reference, dataset) for entry in entries
        ):
            return "–"
        return interval(only(row, entries, a=row.method, b=row.reference, dataset=dataset, metric=metric), metric)

    return cell


def arm(metric: str, steps: int) -> Cell:
    """Mean of an arm of an ablation over its training seeds."""

    def cell(row: Row) -> str:
        entries = content(row.benchmark)["summary"]
        found = only(row, entries, arm=row.method, steps=steps, metric=metric)
        return f"{found['mean']:.{METRICS[metric].digits}f}"

    return cell


def arm_minus(metric: str, steps: int) -> Cell:
    """Mean difference of an arm and its reference, with its interval over training seeds."""

    def cell(row: Row) -> str:
        entries = content(row.benchmark)["differences"]
        found = only(row, entries, arm=row.method, reference=row.reference, steps=steps, metric=metric)
        return interval(found["difference"], metric)

    return cell


def place_and_time(protocol: dict[str, Any]) -> str:
    """Date, commit and machine."""
    return f"{protocol['date']}, commit {protocol['commit']}, {protocol['machine']}"


def source(row: Row) -> str:
    """Date, commit and machine of a benchmark's run, and of the rows that it kept from an earlier one."""
    protocol = content(row.benchmark)["protocol"]
    kept = [f"; {len(one['rows'])} rows: {place_and_time(one)}" for one in protocol.get("kept", [])]
    return place_and_time(protocol) + "".join(kept)


def seeds(row: Row) -> str:
    """Seeds of a benchmark: of the noise, or of an ablation's trainings."""
    return ", ".join(str(seed) for seed in content(row.benchmark)["options"]["seeds"])


def page(row: Row) -> str:
    """Link to a benchmark's own page."""
    return f"[{row.benchmark}.md](../benchmarks/{row.benchmark}/{row.benchmark}.md)"


def peers(benchmark: str, *names: str) -> list[Row]:
    """Rows of other upscalers, under their own names."""
    return [Row(name, benchmark, name) for name in names]


SMALL_PEERS = ("realesr-general-x4v3", "realesr-general-wdn-x4v3", "4xLSDIRCompactC3")
REAL = [
    Row("**auto** (default)", "x4_real", "auto, 1 step"),
    Row("x4-real", "x4_real", "x4-real, 1 step"),
    Row("x4-web", "x4_real", "x4-web, 1 step"),
    Row("x4-real-fast", "x4_real", "x4-real-fast, 1 step"),
    Row("x4-classical", "x4_real", "x4-classical, 1 step"),
    *peers("x4_real", "ClearReality4x", "Real-ESRGAN x4plus"),
    Row("bicubic", "x4_real", "bicubic, MATLAB"),
]
REAL_ALL = [
    REAL[0],
    *(Row(f"**x4-real**, {steps}", "x4_real", f"x4-real, {steps}") for steps in ("1 step", "2 steps", "4 steps")),
    *REAL[2:],
    *peers("x4_real", *SMALL_PEERS),
    *peers("x4_real", "realesr-animevideov3", "SPAN ch48", "DAT-light"),
]
STEPS = ("1 step", "2 steps", "4 steps")
CLASSICAL = [
    *(
        Row(f"teacher, {steps}", "x4_classical", f"teacher, {steps}")
        for steps in ("1 step", "4 steps", "10 steps", "20 steps")
    ),
    *(Row(f"**x4-classical**, {steps}", "x4_classical", f"AMD, {steps}") for steps in STEPS),
    *(Row(f"x4-classical-tiny, {steps}", "x4_peers", f"AMD tiny, {steps}") for steps in STEPS),
]
PEERS = (
    "ClearReality4x",
    "Real-ESRGAN x4plus",
    "realesr-animevideov3",
    "SPAN ch48",
    "SPAN ch52",
    "SPANV2",
    "DAT-light",
)
CLASSICAL_PEERS = [*peers("x4_peers", *PEERS, *SMALL_PEERS), Row("bicubic", "x4_peers", "bicubic, MATLAB")]
CLEAN_COLUMNS: dict[str, Cell] = {
    "Set5 PSNR-Y / LPIPS-Alex": values("Set5", "psnr_y", "lpips_alex"),
    "Set14 PSNR-Y / LPIPS-Alex": values("Set14", "psnr_y", "lpips_alex"),
    "Set14 SSIM-Y": values("Set14", "ssim_y"),
    "Set14 NIQE": values("Set14", "niqe"),
}


def by_severity(benchmark: str) -> list[Row]:
    """Rows of a benchmark whose sets are the severities."""
    return [
        Row("**auto** (default)", benchmark, "auto, 1 step"),
        Row("x4-real", benchmark, "x4-real, 1 step"),
        Row("x4-web", benchmark, "x4-web, 1 step"),
        Row("x4-real-fast", benchmark, "x4-real-fast, 1 step"),
        Row("x4-classical", benchmark, "x4-classical, 1 step"),
        *peers(benchmark, "Real-ESRGAN x4plus", *SMALL_PEERS, "ClearReality4x"),
        Row("bicubic", benchmark, "bicubic, MATLAB"),
    ]


_NOT_IN_BRIEF = ("x4-web", "x4-real-fast", "x4-classical")
SEVERITIES = ("clean", "web", "phone", "heavy")
BRIEF = {kind: values(kind, "psnr_y", "lpips_alex", between="/") for kind in SEVERITIES}
BY_SEVERITY = {kind: values(kind, "psnr_y", "lpips_alex", "effnet") for kind in SEVERITIES}
OTHER_SCALES = [
    Row("bicubic, x2", "x2_severity", "bicubic, MATLAB"),
    Row("**x2-real**", "x2_severity", "x2-real, 1 step"),
    Row("input, x1", "x1_severity", "input"),
    Row("**x1-real**", "x1_severity", "x1-real, 1 step"),
]
DEGRADED: dict[str, Cell] = {
    "PSNR-Y / LPIPS-Alex": values("real_world", "psnr_y", "lpips_alex"),
    "EffNet": values("real_world", "effnet"),
    "NIQE": values("real_world", "niqe"),
    "RealSRSet NIQE / BRISQUE": values("RealSRSet", "niqe", "brisque"),
    "clean Set14 PSNR-Y / LPIPS-Alex": values("Set14", "psnr_y", "lpips_alex"),
    "seconds": seconds,
}
AGAINST = [
    Row(f"x4-real - {name}", "x4_real", "x4-real, 1 step", name) for name in ("ClearReality4x", "Real-ESRGAN x4plus")
]
ARMS = [
    Row(name, "x4_ablation", name)
    for name in ("DMD", "DMD + guidance", "+ score adaptation", "+ sharpening", "AMD", "spatial AMD")
]
AMD_ARMS = [
    Row("AMD (0.5, guidance 1.5, group of 4)", "x4_ablation", "AMD", "DMD + guidance"),
    Row("strength 0.9", "x4_ablation", "AMD, adaptation 0.9", "DMD + guidance"),
    Row("group of 8", "x4_ablation", "AMD, group of 8", "DMD + guidance"),
    Row("reward LPIPS alone", "x4_ablation", "AMD, LPIPS only", "DMD + guidance"),
    Row("no guidance (against DMD without)", "x4_ablation", "AMD, no guidance", "DMD"),
    Row("no guidance, strength 0.9 (against DMD without)", "x4_ablation", "AMD, no guidance, adaptation 0.9", "DMD"),
    Row("DMD with guidance (against DMD without)", "x4_ablation", "DMD + guidance", "DMD"),
    Row("the same, slower student", "x4_ablation", "DMD + guidance, slower student", "DMD"),
]
HACKING = [
    Row("reward: LPIPS and NIQE (the default mix)", "reward_hacking", "LPIPS and NIQE"),
    Row("reward: NIQE only", "reward_hacking", "NIQE only", "LPIPS and NIQE"),
    Row("BRISQUE also as a loss (weight 0.002)", "reward_hacking", "BRISQUE as a loss", "LPIPS and NIQE"),
    Row("the same, five times as strong", "reward_hacking", "BRISQUE as a strong loss", "LPIPS and NIQE"),
    Row("LPIPS and BRISQUE also as losses", "reward_hacking", "LPIPS and BRISQUE as losses", "LPIPS and NIQE"),
]
SOURCES = [
    Row("by severity of the input", "x4_severity", ""),
    Row("the same, x2", "x2_severity", ""),
    Row("the same, x1", "x1_severity", ""),
    Row("degraded inputs", "x4_real", ""),
    Row("clean inputs", "x4_classical", ""),
    Row("clean inputs, tiny model and other upscalers", "x4_peers", ""),
    Row("photographs that nothing was chosen by", "x4_unseen", ""),
    Row("which part of AMD does what", "x4_ablation", ""),
    Row("AMD and DMD", "x4_amd_vs_dmd", ""),
    Row("times of the later steps", "x4_time_shift", ""),
]
JUDGES = ("brisque", "niqe", "psnr_y", "lpips_alex", "effnet", "consistency")
COMPARED = {"PSNR-Y": "psnr_y", "LPIPS-Alex": "lpips_alex", "EffNet": "effnet", "LQ-PSNR": "consistency"}
TABLES: dict[str, tuple[list[Row], dict[str, Cell]]] = {
    "brief": ([row for row in by_severity("x4_unseen") if row.title not in _NOT_IN_BRIEF], BRIEF),
    "unseen": (by_severity("x4_unseen"), BY_SEVERITY),
    "severity": (by_severity("x4_severity"), BY_SEVERITY),
    "other_scales": (OTHER_SCALES, BY_SEVERITY),
    "degraded": (REAL_ALL, DEGRADED),
    "clean": (CLASSICAL + CLASSICAL_PEERS, CLEAN_COLUMNS),
    "clean_own": (CLASSICAL, CLEAN_COLUMNS),
    "degraded_own": (REAL_ALL[:4] + REAL[2:7], DEGRADED),
    "degraded_against": (AGAINST, {title: minus("real_world", metric) for title, metric in COMPARED.items()}),
    "arms": (ARMS, {f"{title}, 4 steps": arm(COMPARED[title], 4) for title in ("PSNR-Y", "LPIPS-Alex")}),
    "amd_arms": (AMD_ARMS, {title: arm_minus(metric, 4) for title, metric in COMPARED.items()}),
    "hacking": (HACKING, {METRICS[metric].title: arm(metric, 1) for metric in JUDGES}),
    "hacking_against": (HACKING[1:], {METRICS[metric].title: arm_minus(metric, 1) for metric in JUDGES[:5]}),
    "sources": (SOURCES, {"page": page, "seeds": seeds, "measured": source}),
}


def title(row: Row) -> str:
    """Title of a line, which says where numbers are those of an earlier version of the weights."""
    has_weights = "weights" in content(row.benchmark)["protocol"]
    return f"{row.title} (earlier version)" if row.method and has_weights and is_earlier(row) else row.title


def table(name: str) -> str:
    """A table as Markdown, without rows in which nothing was measured.

    Raises:
        AMDRestoreError: for a name that is none of :data:`TABLES`.
    """
    if name not in TABLES:
        raise AMDRestoreError(f"no table '{name}'; tables: {', '.join(TABLES)}")
    rows, columns = TABLES[name]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = [cell(row) for cell in columns.values()]
        if any({*text} - {*"– /"} for text in cells):
            lines.append(f"| {title(row)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def render(text: str) -> str:
    """A page's text with every marked table made anew."""
    return BLOCK.sub(lambda match: match[1] + table(match[2]) + match[3], text)


def main() -> int:
    """Write the tables, or with ``--check`` name the pages in which they are stale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a page is stale")
    args = parser.parse_args()
    stale = False
    for name in PAGES:
        file = BENCHMARKS.parent / name
        text = file.read_text(encoding="utf-8")
        if render(text) != text:
            stale = True
            say(f"{name}: {'stale' if args.check else 'written'}")
            if not args.check:
                file.write_text(render(text), encoding="utf-8")
    return int(stale and args.check)


if __name__ == "__main__":
    sys.exit(run_command(main))
