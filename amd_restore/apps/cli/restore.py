"""``amd-restore [restore]``: restore an image, a folder or standard input, on this machine or on a cluster."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from amd_restore.apps.cli.console import STANDARD, Console
from amd_restore.apps.cli.parser import build_parser, settings_of
from amd_restore.apps.files.plan import is_image_name
from amd_restore.atomic import try_writing
from amd_restore.errors import OK, SOME_FAILED, AMDRestoreError, note, run_command

if TYPE_CHECKING:
    from amd_restore.apps.cli.report import Report

# torch is imported when work begins, so that --help and messages about mistyped paths appear at once.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    options = build_parser().parse_args(arguments)
    # Messages must not mix with an image or a report on standard output.
    console = Console(options.debug, quiet=STANDARD in (options.output, options.json))
    interrupted = "interrupted; the images written so far are complete, the same command goes on from there"
    return run_command(lambda: run(options, console), options.debug, "", interrupted)


def run(options: argparse.Namespace, console: Console) -> int:
    """Plan, load, restore and report; the failure of one image does not stop the others.

    Raises:
        AMDRestoreError: no input, weights, device or place to write.
    """
    settings = settings_of(options)
    if options.json not in (None, STANDARD):
        if is_image_name(options.json, frames=True):
            raise AMDRestoreError(f"--json {options.json}: has the name of a picture; name a file such as report.json")
        try_writing(options.json)
    if options.engine == "ray":
        from amd_restore.apps.cli.cluster import restore_in_cluster

        return _end(restore_in_cluster(options, settings, console), console)
    _check_local(options)
    if STANDARD in (options.input, options.output):
        from amd_restore.apps.cli.streams import restore_bytes

        return restore_bytes(options, settings, console)
    from amd_restore.apps.cli.report import Report
    from amd_restore.apps.files.plan import check_writable, clear_stale, is_done, plan_jobs

    report = Report(settings, options.output)
    jobs = plan_jobs(
        options.input,
        options.output,
        options.suffix,
        options.ext,
        options.recursive,
        settings.extras,
        settings.frames,
        report.left_out,
    )
    folder = jobs[0].target.parent if len(jobs) == 1 else options.output
    if options.overwrite or not all(is_done(job.target) for job in jobs):
        from amd_restore.apps.files.engine import Engine
        from amd_restore.apps.files.restorer import Restorer

        restorer = Restorer(settings)
        note(restorer.advice)
        check_writable(folder)
        clear_stale(jobs)
        try:
            with console.bar(len(jobs)) as bar:
                engine = Engine(restorer, options.workers, options.batch, bar.tiles)
                console.follow(engine.run(jobs, options.overwrite), report, bar)
        finally:
            report.finish(jobs)
            if options.json:
                report.write(options.json)
    else:
        report.skip(jobs)
        if options.json:
            report.write(options.json)
    return _end(report, console)


def _end(report: Report, console: Console) -> int:
    console.say(report.summary())
    return SOME_FAILED if report.count("failed") else OK


def _check_local(options: argparse.Namespace) -> None:
    """Refuse options and URLs that only a cluster supports."""
    for name in ("address", "ray_workers", "retries"):
        if getattr(options, name) is not None:
            raise AMDRestoreError(f"--{name.replace('_', '-')} is an option of --engine ray")
    for place in (options.input, options.output):
        if isinstance(place, str):
            raise AMDRestoreError(f"{place}: URLs are read and written by --engine ray only; add it, or name a path")
