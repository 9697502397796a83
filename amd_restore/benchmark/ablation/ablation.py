"""Trainings and measurements of an ablation as jobs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import amd_restore
from amd_restore.atomic import held
from amd_restore.benchmark.ablation.evaluation import Evaluation
from amd_restore.benchmark.ablation.options import AblationOptions
from amd_restore.benchmark.ablation.processes import ChildProcess, last_line, run_processes
from amd_restore.benchmark.ablation.runs import EXPERIMENTS, TrainingRun, plan
from amd_restore.benchmark.ablation.tables import write_tables
from amd_restore.errors import AMDRestoreError, say

TRAIN_SCRIPT = Path(amd_restore.__file__).parent / "train.py"


class Ablation:
    """Ablation, or some of its arms and seeds.

    Args:
        options: ablation.
        file: option file.
        out: folder of tables and cached measurements.
        only: arms; empty for all.
        seeds: training seeds; empty for all.

    Raises:
        AMDRestoreError: a wrong option of a run, or a run of that name with other options.
    """

    def __init__(
        self, options: AblationOptions, file: Path, out: Path, only: Sequence[str] = (), seeds: Sequence[int] = ()
    ) -> None:
        self.options, self.file, self.out = options, file, out
        self.runs = plan(options, file, only, seeds)
        self.evaluation = Evaluation(options, out, self.runs[0].options["scale"])
        self.failures: list[str] = []
        self.unmeasurable: set[str] = set()
        for run in self.runs:
            run.check_unchanged()

    def run(self, train: bool = True, evaluate: bool = True) -> list[str]:
        """Train and measure unfinished runs, and write the tables.

        Returns:
            One line for each run that failed.

        Raises:
            AMDRestoreError: no run is finished.
        """
        finished = [run for run in self.runs if run.finished]
        _say(f"{self.options.name}: {len(self.runs)} runs, {len(finished)} of them finished")
        with contextlib.ExitStack() as locks:
            jobs = []
            for run in self.runs:
                if run in finished:
                    jobs += self._measuring(run) if evaluate else []
                elif train:
                    jobs.append(self._training(run, locks, evaluate))
            run_processes(jobs, self.options.processes)
        if evaluate:
            self.write()
        return self.failures

    def write(self) -> None:
        """Write the tables of all measured runs, of earlier commands' arms and seeds, too.

        Raises:
            AMDRestoreError: there are none.
        """
        # The code may have been edited while this process ran; its measurements do not count for the new code.
        runs = self._runs_of_tables()
        measured = [run for run in runs if run.finished and run.name not in self.unmeasurable]
        if not measured:
            reason = f" ({self.failures[0]})" if self.failures else ""
            raise AMDRestoreError(f"{self.options.name}: no run is finished and measured{reason}")
        measured.sort(key=lambda run: list(self.options.arms).index(run.arm))
        results = self.evaluation.measure(measured, lambda name: None)
        text = write_tables(self.out, self.options, results, runs, self.evaluation.fingerprints())
        say(text)
        _say(f"written to {self.out}/{self.options.name}.md, .csv and .json")

    def _runs_of_tables(self) -> list[TrainingRun]:
        """Return this command's runs, and all others of the option file that are measured."""
        chosen = {run.name for run in self.runs}
        runs = []
        for run in plan(self.options, self.file):
            if run.name not in chosen:
                try:
                    run.check_unchanged()
                except AMDRestoreError:  # It has other options than the file has now.
                    continue
                if not run.finished or not self.evaluation.is_kept(run):
                    continue
            runs.append(run)
        return runs

    def measure_here(self) -> None:
        """Measure finished runs in this process and cache the results; writes no table."""
        self.evaluation.measure([run for run in self.runs if run.finished], lambda name: None)

    def _training(self, run: TrainingRun, locks: contextlib.ExitStack, evaluate: bool) -> ChildProcess:
        # The training inherits the lock, and may outlive this process.
        busy = f"{run.name}: is being trained by another process; wait for it, or see --only and --evaluate_only"
        lock = locks.enter_context(held(EXPERIMENTS / run.ablation / f"{run.name}.lock", busy))
        run.begin()

        def after(code: int, seconds: float) -> Iterator[ChildProcess]:
            run.note_session(seconds, run.total_iter if code == 0 else run.saved_iteration())
            if code != 0:
                self._fail(run, "training", code)
            elif not run.finished:
                self._fail(run, f"training left no {run.weights}", code)
            else:
                _say(f"{run.name}: trained in {seconds:.0f} s")
                yield from self._measuring(run) if evaluate else ()

        command = [sys.executable, str(TRAIN_SCRIPT), "-opt", str(run.option_file), "--auto_resume"]
        return ChildProcess(f"training {run.name}", command, run.log, self.options.num_threads, after, (lock,))

    def _measuring(self, run: TrainingRun) -> list[ChildProcess]:
        """Return one job, or none if the run is measured."""
        if self.evaluation.is_kept(run):
            return []

        def after(code: int, seconds: float) -> Iterator[ChildProcess]:
            if code != 0:
                self.unmeasurable.add(run.name)
                self._fail(run, "measuring", code)
            else:
                _say(f"{run.name}: measured in {seconds:.0f} s")
            return iter(())

        command = [sys.executable, "-m", "amd_restore.benchmark.ablation", "-opt", str(self.file), "--measure_one"]
        # Use one argument each, because an arm's name may begin with a sign.
        command += [f"--only={run.arm}", f"--seeds={run.seed}", f"--out={self.out}"]
        return [ChildProcess(f"measuring {run.name}", command, run.log, self.options.num_threads, after)]

    def _fail(self, run: TrainingRun, what: str, code: int) -> None:
        line = f"{run.name}: {what} ended with code {code}: {last_line(run.log)} (log: {run.log})"
        self.failures.append(line)
        _say(line)


def _say(text: str) -> None:
    say(f"{datetime.now():%H:%M:%S} {text}")
