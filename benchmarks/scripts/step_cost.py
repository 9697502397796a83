"""What AMD costs over DMD per training iteration: both steps side by side in one run, with the breakdown.

Command: python benchmarks/scripts/step_cost.py [--threads 1] [--repeats 10] [--out FILE.md]
Needs:   the trained teacher and the crops that options/train/amd_x4_classical.yml names.
Cost:    about 2 minutes on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from amd_restore.benchmark.provenance import processor
from amd_restore.options import OptionFile
from amd_restore.registry import import_basicsr, register_all
from amd_restore.training.pipeline import build_parser, prepare_options

OPTIONS = Path(__file__).resolve().parents[2] / "options" / "train"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "DMD": ("dmd_x4_classical", {}),
    "AMD": ("amd_x4_classical", {}),
    "spatial AMD": ("amd_x4_classical", {"spatial": True}),
}
PARTS = {
    "diagnose": "rewards and advantage",
    "student_losses": "student's losses",
    "fake_losses": "fake teacher's loss",
}


def build(file: str, distill: dict[str, Any], threads: int) -> Any:
    """A model as the training command builds it."""
    import_basicsr()
    register_all(training=True)
    from basicsr.models import build_model

    options = OptionFile.read(OPTIONS / f"{file}.yml").content
    options["distill"].update(distill)
    options["num_threads"] = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "options.yml"
        path.write_text(yaml.safe_dump(options), encoding="utf-8")
        args = build_parser(True).parse_args(["-opt", str(path)])
        return build_model(prepare_options(args, Path(folder), is_train=True))


def instrument(model: Any, spent: dict[str, float]) -> None:
    """Add the time of each part, and of each reward, to ``spent``."""

    def timed(name: str, inner: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = inner(*args, **kwargs)
            spent[name] += time.perf_counter() - start
            return result

        return call

    for part, title in PARTS.items():
        setattr(model, part, timed(title, getattr(model, part)))
    for reward in model.reward.rewards if hasattr(model, "reward") else ():
        for method in ("measure", "measure_map") if reward.has_map else ("measure",):
            setattr(reward, method, timed(f"reward {reward.name}", getattr(reward, method)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10, help="pairs of iterations, each with one student update")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    spent: dict[str, dict[str, float]] = {name: defaultdict(float) for name in VARIANTS}
    models = {name: build(file, distill, args.threads) for name, (file, distill) in VARIANTS.items()}
    options = models["AMD"].run.datasets["train"]
    crops = np.load(options.arguments["crops_file"], mmap_mode="r")
    side, batch, cadence = options.arguments["gt_size"], options.batch_size_per_gpu, 2
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for repeat in range(args.warmup + args.repeats):
        gt = torch.from_numpy(crops[repeat * batch : (repeat + 1) * batch, :side, :side].copy())
        for name, model in models.items():  # side by side: every variant sees the same moments of the machine
            if repeat == args.warmup:
                instrument(model, spent[name])
            start = time.perf_counter()
            for i in range(cadence):
                model.feed_data({"gt": gt.permute(0, 3, 1, 2).float() / 255})
                model.optimize_parameters(repeat * cadence + i + 1)
            if repeat >= args.warmup:
                seconds[name].append((time.perf_counter() - start) / cadence)
    text = report(args, models, seconds, spent, (side, batch, cadence))
    print(text)  # noqa: T201
    if args.out:
        args.out.write_text(text, encoding="utf-8")


def report(
    args: argparse.Namespace,
    models: dict[str, Any],
    seconds: dict[str, list[float]],
    spent: dict[str, dict[str, float]],
    setting: tuple[int, int, int],
) -> str:
    """Markdown: times, ratios to DMD of the same moments, and where they go."""
    side, batch, cadence = setting
    lines = ["| | s / iteration (median) | ratio to DMD (median of pairs) |", "|---|---|---|"]
    for name, values in seconds.items():
        ratio = statistics.median(v / d for v, d in zip(values, seconds["DMD"], strict=True))
        lines.append(f"| {name} | {statistics.median(values):.3f} | {ratio:.3f} |")
    parts = sorted({part for times in spent.values() for part in times})
    lines += ["", f"| ms / iteration | {' | '.join(seconds)} |", "|---" * (len(seconds) + 1) + "|"]
    for part in parts:
        cells = [1000 * spent[name].get(part, 0.0) / (cadence * args.repeats) for name in seconds]
        lines.append(f"| {part} | {' | '.join(f'{cell:.0f}' for cell in cells)} |")
    shares = [100 * model.diagnostics.read().get("amd/overhead", 0.0) for model in models.values()]
    lines.append(f"| diagnosis only, % of the step | {' | '.join(f'{share:.1f}' for share in shares)} |")
    group = models["AMD"].run.distill.group_size
    lines += [
        "",
        f"{processor()}, {args.threads} threads, torch {torch.__version__}, autocast {models['AMD'].run.amp}, "
        f"{batch} "
        f"crops of {side} x {side} x group of {group}, the student updated every {cadence} iterations; the variants "
        f"take turns; {args.warmup} warm-up rounds, {args.repeats} timed. Rewards are part of their caller's time.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
