"""Restoring on a Ray cluster, from and to folders or object stores."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from amd_restore.apps.cli.console import STANDARD, Console
from amd_restore.apps.cli.report import Report
from amd_restore.apps.files.plan import Job, check_writable, clear_stale
from amd_restore.apps.files.settings import Settings
from amd_restore.apps.ray.connection import Cluster, import_ray
from amd_restore.apps.ray.engine import RayEngine
from amd_restore.apps.ray.plan import ClusterJob, plan_cluster_jobs, present
from amd_restore.apps.ray.storage import check_url_writable, is_url
from amd_restore.errors import AMDRestoreError


def restore_in_cluster(options: argparse.Namespace, settings: Settings, console: Console) -> Report:
    """Plan, start workers and restore, as :func:`amd_restore.apps.cli.restore.run` does on one machine.

    Raises:
        AMDRestoreError: no input, Ray, cluster, weights or place to write.
    """
    if STANDARD in (options.input, options.output):
        raise AMDRestoreError("--engine ray needs files; it cannot be used with -")
    import_ray()
    report = Report(settings, options.output)
    items = plan_cluster_jobs(
        options.input,
        options.output,
        options.suffix,
        options.ext,
        options.recursive,
        settings.extras,
        settings.frames,
        report.left_out,
    )
    there = [] if options.overwrite else sorted(present(items, options.output), key=lambda item: item.source)
    if len(there) == len(items):
        report.skip(items)
    else:
        given = {"address": options.address, "workers": options.ray_workers, "retries": options.retries}
        cluster = Cluster(**{name: value for name, value in given.items() if value is not None})
        _check_output(items, options.output)
        engine = RayEngine(settings, cluster, options.workers, options.batch, console.complain)
        try:
            with console.bar(len(items)) as bar:
                console.follow(engine.run(items, there), report, bar)
        finally:
            if not is_url(options.output):
                clear_stale(_local(items))  # outputs of lost workers
            report.finish(items)
            report.cluster = {"engine": "ray", "retries": engine.retries, "lost_workers": engine.lost_workers}
            if options.json:
                report.write(options.json)
        return report
    if options.json:
        report.write(options.json)
    return report


def _check_output(items: Sequence[ClusterJob], output: str | Path) -> None:
    if not is_url(output):
        check_writable(Path(items[0].target).parent if len(items) == 1 else Path(output))
        clear_stale(_local(items))
        return
    with tempfile.TemporaryDirectory() as folder:
        check_url_writable(items[0].target.rpartition("/")[0] if len(items) == 1 else str(output), Path(folder))


def _local(items: Sequence[ClusterJob]) -> list[Job]:
    return [Job(Path(item.source), Path(item.target)) for item in items]
