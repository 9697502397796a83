"""A process that has imported what commands and trainings import, and forks itself for each that is to run.

Usage: ``python tests/helpers/warm_server.py SOCKET PID``; it ends when the process with that id has. Then it
removes the folder of the socket.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

from places import REPOSITORY

POLL_SECONDS = 0.5


def import_all() -> None:
    """Import the packages that take seconds; none of them may start a thread, which a fork would lose."""
    from amd_restore.registry import import_basicsr, register_all

    import_basicsr()
    register_all(training=True)
    import diffusers
    import peft  # noqa: F401

    import amd_restore.apps.cli
    import amd_restore.pipeline
    import amd_restore.training.pipeline  # noqa: F401

    for name in ("AutoencoderKL", "SD3Transformer2DModel", "UNet2DConditionModel", "UNet2DModel"):
        getattr(diffusers, name)  # imported at first use


def receive(link: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What to run, and the three streams of whoever wants it."""
    head, streams, _, _ = socket.recv_fds(link, 8, 3)
    missing, parts = int.from_bytes(head, "big"), list[bytes]()
    while missing and (part := link.recv(missing)):
        parts.append(part)
        missing -= len(part)
    return json.loads(b"".join(parts)), list(streams)


def watch(link: socket.socket, pid: int) -> None:
    """Wait for the process and report its exit code; kill it when nobody waits for that any more."""
    ended = os.pidfd_open(pid)
    try:
        link.sendall(pid.to_bytes(8, "big"))
        is_wanted = ended in select.select([ended, link.fileno()], [], [])[0]
    except OSError:  # whoever waited was killed before it knew
        is_wanted = False
    if not is_wanted:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):  # killed
        link.sendall(code.to_bytes(8, "big", signed=True))


def serve(path: str, main_process: int) -> list[str]:
    """Fork for each request; returns in the forks only, with the arguments of the interpreter that they stand for."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    listener.settimeout(POLL_SECONDS)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended forks leave nothing to wait for
    while True:
        try:
            link, _ = listener.accept()
        except TimeoutError:
            if not os.path.exists(f"/proc/{main_process}"):
                shutil.rmtree(Path(path).parent, ignore_errors=True)
                os._exit(0)
            continue
        if os.fork():
            link.close()
            continue
        listener.close()
        link.setblocking(True)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request, streams = receive(link)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until end() can take it
        pid = os.fork()
        if not pid:
            link.close()
            become(request, streams)
            return list(request["arguments"])
        for stream in streams:
            os.close(stream)
        watch(link, pid)
        os._exit(0)


def become(request: dict[str, Any], streams: list[int]) -> None:
    """Take over streams, folder and environment."""
    import torch

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.executable = request["python"]  # what it starts itself is quick, too
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))


def run(arguments: list[str]) -> None:
    """What the interpreter does with ``[-u] SCRIPT ...``, ``-m MODULE ...`` or ``-c CODE ...``."""
    is_unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    while arguments[0] == "-u":
        is_unbuffered, arguments = True, arguments[1:]
    if is_unbuffered:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    kind, rest = arguments[0], arguments[1:]
    folder = {"-c": "", "-m": os.getcwd()}.get(kind, str(Path(kind).resolve().parent))
    sys.path[:1] = [folder, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = ["-m", *rest[1:]]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")


def end(arguments: list[str]) -> NoReturn:
    """Run, and leave as the interpreter does, but for its taking all modules apart, which takes a second."""
    code: Any = 0
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        run(arguments)
    except SystemExit as stop:
        code = stop.code
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        code = -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        code = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if (code or 0) < 0:
        os.kill(os.getpid(), -code)
    os._exit(code or 0)


if __name__ == "__main__":
    sys.path[0] = str(REPOSITORY)
    import_all()
    gc.freeze()  # a collection in a fork would touch, and so copy, all that was imported here
    end(serve(sys.argv[1], int(sys.argv[2])))
