"""Train a released model from the photographs on: every stage, then what follows the training, in one command.

    python options/make_model.py x4-classical-tiny

Stages are option files of ``options/train``; each starts from the weights of the one before it. A stage that is
complete is skipped, one that was stopped goes on from its last save, and models share the stages that they have in
common. After the last one the student's last layer is refitted (``benchmarks/scripts/refit_chroma.py``), and the
weights go with their name and rewards into ``--out``; a teacher that ``--until`` ends with stays where it is. What a
stage leaves is in ``experiments/STAGE``; delete that folder to train it anew. A complete stage with other options or
initial weights than now is an error.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from amd_restore.apps.cli.release import release
from amd_restore.atomic import write_atomically
from amd_restore.benchmark.ablation.runs import IRRELEVANT
from amd_restore.benchmark.provenance import file_hash
from amd_restore.errors import AMDRestoreError, Parser, run_command, say
from amd_restore.options import OptionFile
from amd_restore.training.resume import changes
from amd_restore.weights import load_checkpoint

REPOSITORY = Path(__file__).resolve().parent.parent
COMPLETE = "complete"  # file in a stage's folder, written after its last iteration: the hash of its initial weights


@dataclass(frozen=True)
class Plan:
    """What makes a model.

    Args:
        stages: names of option files of ``options/train``, in order.
        refit: options of ``refit_chroma.py``; None where the model is not refitted, as teachers are not.
        release: arguments of :func:`~amd_restore.apps.cli.release.release`.
    """

    stages: tuple[str, ...]
    refit: tuple[str, ...] | None = ()
    release: Mapping[str, Any] = field(default_factory=dict)


_TEACHER = ("regression_x4_classical", "teacher_x4_classical")
_CLASSICAL = (*_TEACHER, "amd_x4_classical", "perceptual_x4_classical")
_REAL = (*_CLASSICAL, "perceptual_x4_real", "perceptual_x4_real_gpu")
_FAST = (*_TEACHER, "teacher_x4_real", "perceptual_x4_real_fast_gpu")
_TINY = (
    "regression_x4_classical_tiny",
    "perceptual_x4_classical_tiny",
    "amd_x4_classical_tiny",
    "amd_x4_classical_tiny_longer",
)
_BICUBIC = ("--degradation", "bicubic")
_X4_REAL = {"mean": "x4-real-teacher"}
_X4_CLASSICAL = {"mean": "x4-classical-teacher"}

MODELS = {
    "x4-classical-teacher": Plan(_TEACHER, refit=None),
    "x4-classical": Plan((*_CLASSICAL, "perceptual_x4_classical_gpu"), _BICUBIC, _X4_CLASSICAL),
    "x4-classical-tiny": Plan(_TINY, _BICUBIC, _X4_CLASSICAL),
    "x4-real-teacher": Plan((*_TEACHER, "teacher_x4_real", "teacher_x4_real_gpu"), refit=None),
    "x4-real": Plan((*_REAL, "perceptual_x4_real_light"), (), _X4_REAL),
    "x4-web": Plan((*_REAL, "perceptual_x4_real_light", "perceptual_x4_web"), (), {**_X4_REAL, "first_gain": 1.1}),
    "x4-real-fast": Plan((*_FAST, "perceptual_x4_real_fast_light"), (), _X4_REAL),
    "x2-real": Plan((*_REAL, "perceptual_x2_real_gpu"), ("--sigma", "1")),
    "x1-real": Plan((*_REAL, "perceptual_x1_real_gpu"), ("--sigma", "1")),
}


def weights_of(stage: str, suffix: str = "safetensors") -> Path:
    """Return the path of a stage's last weights."""
    return folder_of(stage) / "models" / f"net_g_latest.{suffix}"


def start(words: Sequence[str | Path], what: str) -> None:
    """Print and run a Python command; an interruption is passed on to it, and it has the time to save.

    Raises:
        AMDRestoreError: it fails.
    """
    say(shlex.join(["python", *map(str, words)]))
    # In a session of its own the command gets one signal, from here, and not a second one from the terminal.
    process = subprocess.Popen([sys.executable, *map(str, words)], start_new_session=True)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        try:
            process.wait()
        except KeyboardInterrupt:
            process.kill()
        raise
    if code:
        raise AMDRestoreError(f"{what} ended with {code}; see above, mend it and give the same command again")


def folder_of(stage: str) -> Path:
    """Return the folder of a stage's run."""
    return Path("experiments") / stage


def is_complete(stage: str) -> bool:
    """Return whether a stage has been trained to its end."""
    return (folder_of(stage) / COMPLETE).is_file() and weights_of(stage).is_file()


def options_of(stage: str, previous: str | None, overrides: Sequence[str]) -> tuple[Path, list[str]]:
    """Return the option file of a stage and what overrides it."""
    initial = [f"path:pretrain_network_g={weights_of(previous, 'pth')}"] if previous else []
    return REPOSITORY / "options" / "train" / f"{stage}.yml", [*initial, *overrides]


def check_unchanged(stage: str, previous: str | None, overrides: Sequence[str]) -> None:
    """Check that a complete stage was trained with these options.

    Raises:
        AMDRestoreError: it was not, or its folder does not say so.
    """
    file, forced = options_of(stage, previous, overrides)
    differing = changes(OptionFile.read(file, forced), folder_of(stage))
    found = [
        f"{key}: {then} then, {now} now"
        for key, (then, now) in differing.items()
        if key.split(".")[0] not in IRRELEVANT
    ]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise AMDRestoreError(
            f"{stage} is complete, but with other options ({'; '.join(found[:3])}{more}); "
            f"delete {folder_of(stage)} to train it anew, or give the options of then"
        )


def train(stage: str, previous: str | None, overrides: Sequence[str]) -> None:
    """Train a stage from the weights of the one before it, unless it is complete.

    Raises:
        AMDRestoreError: the training fails, or the stage is complete, but from other weights.
    """
    marker, initial = folder_of(stage) / COMPLETE, file_hash(weights_of(previous, "pth")) if previous else ""
    if is_complete(stage):
        if marker.read_text(encoding="utf-8") != initial:
            raise AMDRestoreError(
                f"{stage} is complete, but not from {weights_of(previous or stage, 'pth')} as it is now; "
                f"delete {folder_of(stage)} to train it anew"
            )
        say(f"{stage}: complete; delete {folder_of(stage)} to train it anew")
        return
    file, forced = options_of(stage, previous, overrides)
    script = REPOSITORY / "amd_restore" / "train.py"
    start([script, "-opt", file, "--auto_resume", *(["--force_yml", *forced] if forced else [])], stage)
    write_atomically(marker, initial.encode())


def finish(name: str, plan: Plan, stages: Sequence[str], photographs: Path, out: Path) -> None:
    """Refit the last stage's weights and write them with the name and the rewards of all stages."""
    trained = weights_of(stages[-1])
    if plan.refit is not None and load_checkpoint(trained)[0].kind == "teacher":
        say(f"{trained}: a teacher, not yet {name}")
        return
    if plan.refit is not None:
        refitted = trained.with_name("refitted.safetensors")
        script = REPOSITORY / "benchmarks" / "scripts" / "refit_chroma.py"
        start(
            [script, "--model", trained, "--photographs", photographs, "--out", refitted, *plan.refit], "the refitting"
        )
        trained = refitted
    rewards = sorted({reward for stage in stages for reward in load_checkpoint(weights_of(stage))[0].rewards})
    say(str(release(trained, name, out, rewards=rewards, **plan.release)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = Parser(
        prog="python options/make_model.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=MODELS, metavar="NAME", help=f"released model: {', '.join(MODELS)}")
    parser.add_argument("--until", metavar="STAGE", help="last stage, for instance the last that needs no GPU")
    parser.add_argument(
        "--photographs",
        type=Path,
        default=Path("datasets/data/free_photos/train"),
        help="folder of clean photographs for the refitting (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("released"), help="output folder (default: %(default)s)")
    parser.add_argument(
        "--force_yml", nargs="+", default=[], metavar="a:b=value", help="override options in every stage"
    )
    args = parser.parse_args(arguments)

    def command() -> None:
        plan = MODELS[args.name]
        if args.until is not None and args.until not in plan.stages:
            raise AMDRestoreError(
                f"--until {args.until}: not a stage of {args.name}, which has {', '.join(plan.stages)}"
            )
        stages = plan.stages[: plan.stages.index(args.until) + 1] if args.until else plan.stages
        # What the end needs is checked before hours of training.
        if plan.refit is not None and not args.photographs.is_dir():
            raise AMDRestoreError(f"--photographs {args.photographs}: no such folder; see datasets/README.md")
        starts = [*zip((None, *stages), stages, strict=False)]
        for previous, stage in starts:
            if is_complete(stage):
                check_unchanged(stage, previous, args.force_yml)
            if stage.endswith("_gpu") and not torch.cuda.is_available():
                raise AMDRestoreError(
                    f"{stage} is made for a GPU, and none is found; --until {previous} ends before it"
                )
        for previous, stage in starts:
            train(stage, previous, args.force_yml)
        finish(args.name, plan, stages, args.photographs, args.out)

    return run_command(command, args.debug)


if __name__ == "__main__":
    sys.exit(main())
