"""Errors that are meant for a person, and how every command speaks and ends.

A command says its result on standard output and all else, one line each, on standard error. Its exit code is
``OK``, ``SOME_FAILED``, ``NOT_STARTED`` or ``INTERRUPTED``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

OK, SOME_FAILED, NOT_STARTED, INTERRUPTED = 0, 1, 2, 130
_came: list[int] = []  # signals that interrupted the command


class AMDRestoreError(Exception):
    """A problem with the user's input; the message is shown as one line, without a traceback."""


EXTRAS = ("diffusers", "torch")  # packages that some of the work needs, each brought by the extra of its name


class DeliveryError(AMDRestoreError):
    """The work is done, but its result or its report cannot be written."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the option ``--debug``; ``~`` in paths is the home folder."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register("type", Path, lambda text: Path(os.path.expanduser(text)))  # shells leave ``--out=~/x`` alone
        self.add_argument("--debug", action="store_true", help="show tracebacks")

    def error(self, message: str) -> NoReturn:
        """Print one line instead of argparse's two."""
        self.exit(NOT_STARTED, f"{self.prog}: {message}; see {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help, version or error to a stream that may be closed, full, or no longer read."""
        if message:
            _print(sys.stderr if file is None else file, message.removesuffix("\n"))


def run_command(
    command: Callable[[], int | None],
    debug: bool = False,
    name: str = "error",
    interrupted: str = "interrupted",
    stops_on_sigterm: bool = True,
    extra: str | None = None,
) -> int:
    """Run ``command`` and return the exit code: its own (None is ``OK``), or that of what ended it.

    Args:
        command: does the work.
        debug: show the traceback of an error.
        name: put before the message of an error, as in "amd-restore export: no such model"; may be empty.
        interrupted: message after Ctrl-C.
        stops_on_sigterm: treat being told to end, as by a job scheduler, as Ctrl-C.
        extra: what to install if a package is missing; None for the extra of its name, if it is of ``EXTRAS``.
    """
    _open_missing_streams()
    try:
        with _interruptions() if stops_on_sigterm else contextlib.nullcontext():
            return command() or OK
    except (AMDRestoreError, OSError) as error:
        complain(f"{name}: {error}" if name else str(error), error if debug else None)
        return SOME_FAILED if isinstance(error, DeliveryError) else NOT_STARTED
    except ModuleNotFoundError as error:
        if (needs := _missing_package(error, extra)) is None:
            raise
        complain(f"{name}: {needs}" if name else needs, error if debug else None)
        return NOT_STARTED
    except KeyboardInterrupt:
        complain(interrupted)
        return INTERRUPTED


@contextlib.contextmanager
def imports_of(extra: str) -> Iterator[None]:
    """End a program with one line where its imports, the body, need a package of ``extra`` that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (needs := _missing_package(error, extra)) is None:
            raise
        complain(f"error: {needs}")
        raise SystemExit(NOT_STARTED) from error


def _missing_package(error: ModuleNotFoundError, extra: str | None) -> str | None:
    """Return what to install; None if it is no extra that is missing, but a module of ours."""
    package = (error.name or "").partition(".")[0]
    if package in EXTRAS or (extra and package not in ("", "amd_restore")):
        return f"this needs {package}: pip install 'amd-restore[{extra or package}]'"
    return None


def say(text: str) -> None:
    """Print result lines on standard output; without effect where that is closed, full, or no longer read."""
    _print(sys.stdout, text)


def note(message: str | None) -> None:
    """Print one line of advice on standard error, if there is one."""
    if message:
        complain(f"note: {message}")


def complain(message: str, error: BaseException | None = None) -> None:
    """Print one line on standard error, above a progress bar if there is one, after the traceback of ``error``."""
    text = re.sub(r"\s*\n\s*", " ", message.strip())
    if error is not None:
        text = "".join(traceback.format_exception(error)) + text
    # A bar exists only where tqdm was imported.
    tqdm = sys.modules.get("tqdm")
    with tqdm.tqdm.external_write_mode(file=sys.stderr) if tqdm else contextlib.nullcontext():
        _print(sys.stderr, text)


def write_output(data: bytes) -> None:
    """Write data, not a message, to standard output.

    Raises:
        DeliveryError: it is closed, full, or no longer read.
    """
    try:
        if sys.stdout is None:
            raise OSError(0, "it is closed")
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        _discard(sys.stdout)
        raise DeliveryError(f"standard output: cannot be written ({(error.strerror or str(error)).lower()})") from error


def _print(stream: TextIO | None, text: str) -> None:
    if stream is None:
        return
    # A name may hold escape sequences of terminals, and characters that the stream cannot encode.
    shown = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(shown.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except (OSError, ValueError):
        _discard(stream)


def _discard(stream: TextIO | None) -> None:
    """Send what ``stream`` still holds to the null device: Python's last flush would fail on it again."""
    if stream is None:
        return
    # A stream that somebody put in place of the real one may have no descriptor.
    with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), stream.fileno())


def _open_missing_streams() -> None:
    """Open the null device in place of descriptors that the parent process has closed.

    Otherwise the next file that is opened gets the number of standard error, and libraries print their warnings into
    it. ``sys.stdin`` and ``sys.stdout`` stay None, so that data for them is an error; progress bars need a
    ``sys.stderr``.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")


def raise_interruption() -> None:
    """Interrupt again, where something else was raised in place of the interruption, as libraries written in C do.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM came during :func:`run_command`.
    """
    if _came:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _interruptions() -> Iterator[None]:
    """Make SIGTERM an interruption, and what native code makes of an interruption one again."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        _came.append(signum)
        raise KeyboardInterrupt

    previous: dict[int, Any] = {}
    try:
        # What a shell makes a process in the background ignore stays ignored.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            previous[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
        previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # Outside the main thread, the caller handles signals.
        yield
        return
    try:
        yield
    except Exception as error:  # Native code turns an interruption into errors of any kind.
        if _came:
            raise KeyboardInterrupt from error
        raise
    finally:
        _came.clear()
        for number, handler in previous.items():
            signal.signal(number, handler)
