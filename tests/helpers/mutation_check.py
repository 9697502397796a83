"""Deliberate mistakes in the method, each of which a test of meaning has to notice.

``python tests/helpers/mutation_check.py [WORD ...]`` copies the repository to a temporary folder, makes one mistake at
a time there and runs the tests that must fail; words choose mistakes by name. It needs the assets of the tests, takes
some ten seconds for each mistake, and is no part of the suite. A mistake that nobody notices means that the method is
free to change by accident: write a test. One whose place is not found has moved: mend it here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from places import REPOSITORY

COPIED = ("amd_restore", "options", "tests", "pyproject.toml")
MEANING = "tests/training/test_method_in_models.py"


@dataclass(frozen=True)
class Mutation:
    """One mistake.

    Args:
        name: what is wrong.
        old: text that stands at exactly one place of the package.
        new: what it becomes.
        test: file and a part of the names of the tests that must fail, as ``FILE::PART``.
    """

    name: str
    old: str
    new: str
    test: str


MUTATIONS = (
    Mutation("EMA decay ignored by the student", "self.model_ema(decay)", "self.model_ema(0.0)", f"{MEANING}::average"),
    Mutation(
        "EMA decay ignored by the teacher",
        "self.model_ema(min(self.ema_decay, (1 + current_iter) / (10 + current_iter)))",
        "self.model_ema(0.0)",
        f"{MEANING}::average",
    ),
    Mutation(
        "fake trained at one time only",
        "t=options.t_min + (1.0 - options.t_min) * self.rand(len(rollout))",
        "t=0.5 + 0.0 * self.rand(len(rollout))",
        f"{MEANING}::all_times",
    ),
    Mutation("normaliser by the fake", "target = x0_real\n", "target = x0_fake\n", f"{MEANING}::normaliser"),
    Mutation("matching_decay ignored", "** options.matching_decay", "** 0.0", f"{MEANING}::later_steps"),
    Mutation("matching_first ignored", "if self.run.distill.matching_first:", "if True:", f"{MEANING}::first_step"),
    Mutation(
        "fake fits what is not matched",
        "batch = batch[rows if len(rows) else slice(0, 1)]",
        "pass",
        f"{MEANING}::only_what_is_matched",
    ),
    Mutation(
        "unconditional teacher called with the condition",
        "uncond = self.denoiser(self.net_teacher)(x_t, t, None)",
        "uncond = self.denoiser(self.net_teacher)(x_t, t, rollout.cond)",
        f"{MEANING}::guidance",
    ),
    Mutation(
        "teacher loss without the weight of v",
        "(error * self.process.loss_weight(batch.t)).mean()",
        "error.mean()",
        f"{MEANING}::error_of_v",
    ),
    Mutation(
        "condition dropout off",
        "keep = self.rand(n) >= options.cond_dropout",
        "keep = self.rand(n) >= 0.0",
        f"{MEANING}::dropped",
    ),
    Mutation(
        "time_shift ignored in the approach",
        "first, cond, self.times(draw), draw.stops, noise)",
        "first, cond, row_times(draw.steps, int(draw.stops.max()), 1.0), draw.stops, noise)",
        f"{MEANING}::shifted_times",
    ),
    Mutation(
        "time_shift ignored in the last call",
        "first, x_t, cond, self.times(draw), draw.stops)",
        "first, x_t, cond, row_times(draw.steps, int(draw.stops.max()), 1.0), draw.stops)",
        f"{MEANING}::shifted_times",
    ),
    Mutation(
        "noise shared in a group",
        "return self.randn(self.codec.latent_shape(self.lq))",
        "return self.randn(self.codec.latent_shape(self.lq))[:1].repeat(len(self.lq), 1, 1, 1)",
        f"{MEANING}::own_noise",
    ),
    Mutation(
        "sharpening inverted", "sharpening_weight(advantage,", "sharpening_weight(-advantage,", f"{MEANING}::sharpest"
    ),
    Mutation(
        "advantage inverted", "return group_advantage(", "return -group_advantage(", f"{MEANING}::has_the_advantage"
    ),
    Mutation(
        "faithful where textured",
        "resize_map((1 - share) * error,",
        "resize_map(share * error,",
        "tests/core/test_rewards_complexity.py::counts_in_its_half",
    ),
    Mutation(
        "advantage lost between its computations",
        "return self.mean_advantage.expand(len(rollout))",
        "return 0.0 * self.mean_advantage.expand(len(rollout))",
        "tests/training/test_matching_options.py::every_kth_time",
    ),
    Mutation(
        "fake without fresh noise",
        "noise=self.randn(rollout.x0.shape),\n            cond=self.condition_of_fake",
        "noise=0.0 * self.randn(rollout.x0.shape),\n            cond=self.condition_of_fake",
        f"{MEANING}::fresh_noise",
    ),
    Mutation(
        "one block of autocast for all calls of the student",
        "with torch.set_grad_enabled(with_gradient and self.accumulate == 1):",
        "with torch.set_grad_enabled(with_gradient and self.accumulate == 1), self.autocast():",
        "tests/training/test_bfloat16_training.py::no_block",
    ),
    Mutation(
        "weight of a loss ignored",
        "return self.weight * self.measure(image, gt, lq)",
        "return self.measure(image, gt, lq)",
        "tests/core/test_losses_registry.py::counts_by_its_weight",
    ),
    Mutation(
        "probe of the discriminator's features on the CPU",
        "MIN_SIZE, MIN_SIZE, device=next(self.parameters()).device)",
        "MIN_SIZE, MIN_SIZE)",
        "tests/training/test_pretend_cuda.py::adversarial",
    ),
    Mutation(
        "resumed sums of the log on the CPU",
        "{key: value.to(self.device) for key, value in state",
        "{key: value for key, value in state",
        "tests/training/test_pretend_cuda.py::dmd_x4",
    ),
)


def place_of(text: str, package: Path) -> Path:
    """The file of ``package`` in which ``text`` stands; exactly once, and in no other.

    Raises:
        SystemExit: it does not, or more than once.
    """
    found = {path: path.read_text(encoding="utf-8").count(text) for path in sorted(package.rglob("*.py"))}
    files = [path for path, count in found.items() if count]
    if sum(found.values()) != 1:
        sys.exit(f"{text!r}: found {sum(found.values())} times in {len(files)} files, not once; it has moved: mend it")
    return files[0]


def run_tests(copy: Path, file: str, words: list[str]) -> tuple[bool, str]:
    """Whether the tests of ``file`` pass that have one of ``words`` in their names, and pytest's last line.

    Raises:
        SystemExit: there are none, they cannot run, or pytest itself fails.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=line", file]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(copy)}
    command += ["-k", " or ".join(words)]
    result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    lines = result.stdout.strip().splitlines()
    if result.returncode not in (0, 1):
        sys.exit(f"{' '.join(command)} ended with {result.returncode}\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    failed = [line for line in lines if line.startswith("FAILED")]
    if result.returncode and not failed:
        sys.exit(f"{' '.join(command)}: the tests cannot run, which notices nothing\n{result.stdout[-2000:]}")
    return result.returncode == 0, (failed or lines or [""])[-1]


def check(mutations: list[Mutation], copy: Path) -> int:
    """How many of the mistakes go unnoticed in ``copy``, whose tests have to pass without any."""
    files = {mutation.test.split("::")[0] for mutation in mutations}
    for file in sorted(files):
        words = [m.test.split("::")[1] for m in mutations if m.test.startswith(file)]
        passed, last = run_tests(copy, file, words)
        if not passed:
            sys.exit(f"{file} fails without any mistake: {last}")
    missed = 0
    for mutation in mutations:
        place = place_of(mutation.old, copy / "amd_restore")
        right = place.read_text(encoding="utf-8")
        place.write_text(right.replace(mutation.old, mutation.new), encoding="utf-8")
        file, word = mutation.test.split("::")
        passed, last = run_tests(copy, file, [word])
        place.write_text(right, encoding="utf-8")
        missed += passed
        sys.stdout.write(f"{'MISSED' if passed else 'caught'}  {mutation.name} | {last[:150]}\n")
        sys.stdout.flush()
    return missed


def main(words: list[str]) -> int:
    """Check the mistakes whose names contain all ``words``; 1 when one goes unnoticed."""
    for mutation in MUTATIONS:
        place_of(mutation.old, REPOSITORY / "amd_restore")
    chosen = [mutation for mutation in MUTATIONS if all(word in mutation.name for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            source, target = REPOSITORY / name, Path(folder) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        missed = check(chosen, Path(folder))
    sys.stdout.write(f"{len(chosen) - missed} of {len(chosen)} mistakes are noticed\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
