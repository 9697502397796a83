"""What must hold after every run of the command, whatever it was given."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fuzzing.processes import Call, Ended

Tree = dict[str, tuple[Any, ...]]
_CODES = {0, 1, 2, 130}
MOST = 2500 << 20  # bytes of a run that was given --max-memory=2G, as all are
_TEMPORARY = (".amd-restore", ".part")
REPORT = "report.json"  # is replaced by every run


def tree_of(folder: Path) -> Tree:
    """Every name below ``folder`` with what it is: kind, mode, content and time, or where a link leads."""
    found: Tree = {}
    for parent, folders, names in os.walk(os.fsencode(folder)):
        for name in (*folders, *names):
            path = os.path.join(parent, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            key = os.fsdecode(os.path.relpath(path, os.fsencode(folder)))
            if stat.S_ISLNK(kind):
                found[key] = ("link", os.readlink(path))
            elif stat.S_ISREG(kind):
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
                found[key] = ("file", stat.S_IMODE(status.st_mode), digest, status.st_mtime_ns)
            else:
                found[key] = ("folder" if stat.S_ISDIR(kind) else "other", stat.S_IMODE(status.st_mode))
    return found


def problems(call: Call, ended: Ended, before: Tree, after: Tree, report: dict[str, Any] | None) -> list[str]:
    """All that is wrong after a run.

    Args:
        call: what was run.
        ended: how that ended.
        before, after: everything below the folder it was run in.
        report: its JSON report, None if there is none.
    """
    return [
        *_crashes(call, ended),
        *_lines(call, ended, report),
        *_files(call, ended, before, after, report),
    ]


def leftovers(tree: Iterable[str]) -> list[str]:
    """Names of temporary files."""
    return [name for name in tree if any(mark in os.path.basename(name) for mark in _TEMPORARY)]


def _crashes(call: Call, ended: Ended) -> Iterator[str]:
    said = ended.err.decode("utf-8", "replace") + ended.crash
    if ended.hung:
        yield "it hangs"
    elif ended.crash or "Traceback" in said or "unexpected " in said:
        yield said
    elif ended.code not in _CODES and not (call.ends and ended.code in (-call.ends[1], -signal.SIGKILL)):
        yield f"exit code {ended.code}: {said[-300:]}"
    if ended.memory > MOST:
        yield f"it took {ended.memory >> 20} MiB"
    if ended.code == 130 and not (call.ends and call.ends[1] in (signal.SIGINT, signal.SIGTERM)):
        yield "exit code 130 without a signal"


def _lines(call: Call, ended: Ended, report: dict[str, Any] | None) -> Iterator[str]:
    """One line for each problem, and an exit code that fits."""
    lines = [line for line in ended.err.decode(call.encoding, "replace").splitlines() if not line.startswith("note: ")]
    if ended.code == 2 and call.stderr == "file" and len(lines) != 1:
        yield f"exit code 2 with {len(lines)} lines: {lines}"
    if report is None or ended.code not in (0, 1):
        return
    failed = report["counts"]["failed"]
    on_stdout = "--json=-" in call.arguments  # then the summary, or that it cannot be written, is a line on stderr
    if ended.code != (1 if failed or (on_stdout and call.stdout != "file") else 0):
        yield f"exit code {ended.code} with {failed} failures"
    if call.stderr == "file" and len(lines) != failed + on_stdout:
        yield f"{failed} failures in {len(lines)} lines: {lines}"
    if call.stderr == "file":
        messages = {image["message"] for image in report["images"] if image["status"] == "failed"}
        if any(not message or "\n" in message for message in messages):
            yield f"a failure without one line: {messages}"


def _files(call: Call, ended: Ended, before: Tree, after: Tree, report: dict[str, Any] | None) -> Iterator[str]:
    """Nothing replaced that should stay, nothing half-written, no temporary file."""
    if ended.code >= 0 and (left := sorted({*leftovers(after)} - {*leftovers(before)})):
        yield f"temporary files left: {left}"
    if gone := [name for name in before if name not in after and not leftovers([name])]:
        yield f"gone: {gone}"
    images = report["images"] if report else []
    written = {_shown(os.path.join(call.folder, image["target"])) for image in images}
    sources = {_shown(os.path.join(call.folder, image["source"])) for image in images}
    overwrites = "--overwrite" in call.arguments
    for name, value in after.items():
        path = os.path.join(call.folder, name)
        if name == REPORT:
            continue
        if value == before.get(name) or value[0] in ("folder", "other"):
            if value != before.get(name, value):
                yield f"changed: {name}: {before[name]} -> {value}"
        elif name in before and before[name][2:3] != (hashlib.sha256(b"").hexdigest(),):
            is_extra = any(mark in name for mark in ("_sample", "_compare", "_uncertainty"))  # of an unfinished job
            is_output = is_extra or (overwrites and _shown(path) in written)
            if not is_output or _shown(path) in sources:
                yield f"replaced: {name}: {before[name]} -> {value}"
            elif value[1] != before[name][1]:
                yield f"mode changed: {name}"
        elif value[0] == "file" and not leftovers([name]) and (reason := _unreadable(path)):
            yield f"half-written: {name}: {reason}"
    for image in images:
        target = os.path.join(call.folder, image["target"])
        if image["status"] == "restored" and not os.path.exists(target) and "?" not in target:
            yield f"said to be restored, but not there: {image['target']}"


def _shown(path: str) -> str:
    """The file behind all links as a report names it, with question marks for what is no Unicode."""
    return os.path.realpath(path).encode("utf-8", "replace").decode()


def _unreadable(path: str) -> str | None:
    """Why a file that was written cannot be read again."""
    from PIL import Image

    from amd_restore.errors import AMDRestoreError
    from amd_restore.image_io import read_frames, read_image

    try:
        if path.endswith(".json"):
            json.loads(Path(path).read_bytes())
        else:
            read_image(path)
    except ValueError as error:
        return str(error)
    except AMDRestoreError as error:
        if "--frames" not in str(error):
            return str(error)
        try:
            frames = read_frames(path)
            with Image.open(path) as image:
                for number in range(frames.count):
                    image.seek(number)
                    image.load()
        except Exception as second:  # Pillow raises many kinds of errors for damaged files; each is a finding.
            return str(second)
    return None
