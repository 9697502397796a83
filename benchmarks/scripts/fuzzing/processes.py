"""The command in a fork of this process: quick to start, with any streams, user and environment, and easy to end."""

from __future__ import annotations

import atexit
import os
import resource
import select
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

NOBODY = 65_534  # a user who may not do everything
ROOM = 8 << 30  # bytes of a run; one that goes on taking memory must not take that of other programs
HANGS = 180.0  # seconds after which a run counts as hanging, on a busy machine, too


@dataclass(frozen=True)
class Call:
    """One run of the command.

    Args:
        arguments: of the command.
        folder: where it is run.
        stdin: what comes in, None if it is closed.
        stdout, stderr: ``file``, ``closed``, ``full``, or ``gone``: a pipe that nobody reads.
        encoding: of the streams.
        environment: changes; None removes a variable.
        user: a number, None is this one.
        ends: after these seconds, by this signal; None leaves it alone.
    """

    arguments: Sequence[str]
    folder: Path
    stdin: bytes | None = b""
    stdout: str = "file"
    stderr: str = "file"
    encoding: str = "utf-8"
    environment: dict[str, str | None] = field(default_factory=dict)
    user: int | None = None
    ends: tuple[float, int] | None = None


@dataclass(frozen=True)
class Ended:
    """What came of a run.

    Args:
        code: exit code; that of a process which a signal ended is the signal's number, negative.
        out, err: what it wrote to files.
        crash: tracebacks of what escaped, also from threads, and of streams that could not be emptied at the end.
        hung: whether it took too long.
        seconds: it took.
        memory: most bytes that it had.
    """

    code: int
    out: bytes
    err: bytes
    crash: str
    hung: bool = False
    seconds: float = 0.0
    memory: int = 0


def run(call: Call, command: Callable[[Sequence[str]], int], notes: Path) -> Ended:
    """Fork, run ``command`` in the fork and wait for it; ``notes`` is a folder for what the streams take."""
    paths = [notes / name for name in ("stdin", "stdout", "stderr", "crash")]
    paths[0].write_bytes(call.stdin or b"")
    for path in paths[1:]:
        path.write_bytes(b"")
    sys.stdout.flush()
    start = time.monotonic()
    pid = os.fork()
    if not pid:
        _child(call, command, paths)
    process = os.pidfd_open(pid)
    hung = False
    try:
        if call.ends is not None and not select.select([process], [], [], call.ends[0])[0]:
            os.kill(pid, call.ends[1])
        if not select.select([process], [], [], HANGS)[0]:
            hung = True
            os.kill(pid, signal.SIGKILL)
        _, status, used = os.wait4(pid, 0)
    finally:
        os.close(process)
    out, err, crash = (path.read_bytes() for path in paths[1:])
    code, crashed = os.waitstatus_to_exitcode(status), crash.decode("utf-8", "replace")
    return Ended(code, out, err, crashed, hung, time.monotonic() - start, used.ru_maxrss << 10)


def _child(call: Call, command: Callable[[Sequence[str]], int], paths: Sequence[Path]) -> NoReturn:
    """As a new process of the interpreter would: streams from descriptors, the last flush, the exit code."""
    code: object = 1
    crash = os.fdopen(os.dup(os.open(paths[3], os.O_WRONLY)), "w", encoding="utf-8", errors="backslashreplace")
    # Temporary folders of the process that forked are still in use there when this one ends.
    for finalizer in list(vars(weakref.finalize)["_registry"]):
        finalizer.atexit = False
    try:
        for name, value in call.environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        os.chdir(call.folder)
        _open_streams(call, paths)
        sys.unraisablehook = lambda given: traceback.print_exception(given.exc_value, file=crash)
        threading.excepthook = lambda given: traceback.print_exception(given.exc_value, file=crash)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_DATA, (ROOM, ROOM))
        if call.user is not None and not os.getuid():
            os.setgroups([])
            os.setgid(call.user)
            os.setuid(call.user)
        code = command(call.arguments)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the interpreter takes itself apart now
    except SystemExit as stop:
        code = stop.code
    except KeyboardInterrupt:  # before the command takes signals, or behind: as the interpreter
        code = 130
    except BaseException:  # Whatever escapes the command is a finding.
        traceback.print_exc(file=crash)
    try:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except BaseException:  # The interpreter would say it on standard error, and end with another code.
        traceback.print_exc(file=crash)
    crash.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _open_streams(call: Call, paths: Sequence[Path]) -> None:
    descriptors: list[int | None] = [None if call.stdin is None else os.open(paths[0], os.O_RDONLY)]
    for kind, path in ((call.stdout, paths[1]), (call.stderr, paths[2])):
        if kind == "gone":
            reader, writer = os.pipe()
            os.close(reader)
            descriptors.append(writer)
        elif kind == "closed":
            descriptors.append(None)
        else:
            descriptors.append(os.open("/dev/full" if kind == "full" else path, os.O_WRONLY))
    for number, descriptor in enumerate(descriptors):
        if descriptor is None:
            os.close(number)
        else:
            os.dup2(descriptor, number)

    def opened(number: int, mode: str, errors: str) -> object:
        if descriptors[number] is None:
            return None
        return open(number, mode, encoding=call.encoding, errors=errors, closefd=False)

    sys.stdin = opened(0, "r", "strict")  # type: ignore[assignment]  # None is what a closed stream is
    sys.stdout = opened(1, "w", "strict")  # type: ignore[assignment]  # None is what a closed stream is
    sys.stderr = opened(2, "w", "backslashreplace")  # type: ignore[assignment]  # None is what a closed stream is
