"""Seconds of a training iteration of AMD beside DMD, in one process, and where they go.

They are the process's own processor time, which other work on the machine changes little: with one thread, the wall
clock of an idle machine.

Command: python benchmarks/scripts/step_cost.py [--threads 1] [--repeats 10] [--out FILE.md]
Needs:   datasets/data/crops_256.npy from datasets/prepare_free_photos.py.
Cost:    about 5 minutes on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from amd_restore.benchmark.provenance import processor
from amd_restore.errors import run_command
from amd_restore.options import OptionFile, merge
from amd_restore.registry import import_basicsr, register_all
from amd_restore.training.pipeline import build_parser, prepare_options

WEIGHTS = "amd_restore/weights"
# The last stage of the released x4-classical, at one step and without the reward that is slow and noisy on crops.
RECIPE = Path(__file__).resolve().parents[2] / "options" / "train" / "amd_x4_classical_deep.yml"
CHANGES: dict[str, Any] = {
    "path": {
        "pretrain_network_g": f"{WEIGHTS}/x4-classical.safetensors",
        "pretrain_network_teacher": f"{WEIGHTS}/x4-classical-teacher.safetensors",
        "pretrain_network_fake": None,
    },
    "distill": {"num_steps": [1], "step_weights": None, "matching_first": True, "group_size": 1},
    "rewards": [{"type": "LPIPSReward", "net": "squeeze"}, {"type": "EfficientNetReward", "variant": "lite1"}],
}
CADENCE = 4  # iterations timed together, a multiple of all advantage_every
SAMPLES = 8  # student's samples per iteration, in groups or not
# name -> changes; all else, the number of samples too, is equal
VARIANTS: dict[str, dict[str, Any]] = {
    "DMD": {"model_type": "DMDModel", "rewards": None, "distill": {"std_floor": 0.0}},
    "AMD, group of 2": {"distill": {"group_size": 2}},
    "AMD, teacher": {"distill": {"advantage": "teacher"}},
    "AMD, teacher, map": {"distill": {"advantage": "teacher", "spatial": True}},
    "AMD, teacher, map, every 2nd": {"distill": {"advantage": "teacher", "spatial": True, "advantage_every": 2}},
    "AMD, teacher, map, every 4th": {"distill": {"advantage": "teacher", "spatial": True, "advantage_every": 4}},
}
PARTS = {
    "diagnose": "rewards and advantage",
    "teacher_images": "of it the teacher's samples",
    "student_losses": "student's losses",
    "fake_losses": "loss of the fake score",
}


def build(changes: dict[str, Any], threads: int) -> Any:
    """Return a model built as the training command builds it."""
    import_basicsr()
    register_all(training=True)
    from basicsr.models import build_model

    options = merge(merge(OptionFile.read(RECIPE).content, CHANGES), changes)
    options["datasets"]["train"]["batch_size_per_gpu"] = SAMPLES // options["distill"]["group_size"]
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
            start = time.process_time()
            result = inner(*args, **kwargs)
            spent[name] += time.process_time() - start
            return result

        return call

    for part, title in PARTS.items():
        if hasattr(model, part):
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
    models = {name: build(changes, args.threads) for name, changes in VARIANTS.items()}
    arguments = models["DMD"].run.datasets["train"].arguments
    crops, side = np.load(arguments["crops_file"], mmap_mode="r"), arguments["gt_size"]
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for repeat in range(args.warmup + args.repeats):
        gt = torch.from_numpy(crops[repeat * SAMPLES : (repeat + 1) * SAMPLES, :side, :side].copy())
        for name, model in models.items():  # side by side: every variant sees the same moments of the machine
            if repeat == args.warmup:
                instrument(model, spent[name])
            start = time.process_time()
            for i in range(CADENCE):
                batch = gt[:: model.run.distill.group_size].permute(0, 3, 1, 2).float() / 255
                model.feed_data({"gt": batch})
                model.optimize_parameters(repeat * CADENCE + i + 1)
            if repeat >= args.warmup:
                seconds[name].append((time.process_time() - start) / CADENCE)
    text = report(args, models, seconds, spent, side)
    print(text)  # noqa: T201
    if args.out:
        args.out.write_text(text, encoding="utf-8")


def report(
    args: argparse.Namespace,
    models: dict[str, Any],
    seconds: dict[str, list[float]],
    spent: dict[str, dict[str, float]],
    side: int,
) -> str:
    """Return Markdown: times, ratios to DMD of the same moments, and where they go."""
    lines = ["| | processor s / iteration (median) | ratio to DMD (median of pairs) |", "|---|---|---|"]
    for name, values in seconds.items():
        ratio = statistics.median(v / d for v, d in zip(values, seconds["DMD"], strict=True))
        lines.append(f"| {name} | {statistics.median(values):.3f} | {ratio:.3f} |")
    parts = sorted({part for times in spent.values() for part in times})
    lines += ["", f"| ms / iteration | {' | '.join(seconds)} |", "|---" * (len(seconds) + 1) + "|"]
    for part in parts:
        cells = [1000 * spent[name].get(part, 0.0) / (CADENCE * args.repeats) for name in seconds]
        lines.append(f"| {part} | {' | '.join(f'{cell:.0f}' for cell in cells)} |")
    shares = [100 * model.diagnostics.read().get("amd/overhead", 0.0) for model in models.values()]
    lines.append(f"| diagnosis only, % of the step | {' | '.join(f'{share:.1f}' for share in shares)} |")
    run = models["DMD"].run
    lines += [
        "",
        f"{processor()}, {args.threads} threads, torch {torch.__version__}, autocast {run.amp}; {SAMPLES} samples of "
        f"{side} x {side} pixels, student and fake score updated in every iteration; networks and losses of "
        f"{RECIPE.name} at one step; the variants take turns; {args.warmup} warm-up rounds, {args.repeats} timed. "
        "Rewards are part of their caller's time.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_command(main))
