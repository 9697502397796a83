"""Files that appear whole or not at all."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import platform
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from amd_restore.errors import AMDRestoreError

# Name of a temporary file. The process that writes it holds a lock on it, which ends with the process: unlike its
# number, that is also visible from another container. Locks need not reach other hosts, hence the name of the host.
# The suffix keeps a leftover from being taken for an image or a checkpoint.
_TEMPORARY = re.compile(r"\.amd-restore-(?P<host>[0-9a-f]{8})-[0-9a-f]+\.part")
_ADVICE = "choose another output folder or free some space"
_OLD = 24 * 3600.0  # seconds after which a leftover counts as dead where locks do not tell


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path``, see :func:`open_atomically`."""
    with open_atomically(path) as file:
        file.write(data)


@contextlib.contextmanager
def open_atomically(path: str | Path) -> Iterator[BinaryIO]:
    """A file that becomes ``path`` at the end of the block: temporary file in the same folder, fsync, rename.

    Folders on the way are made. Whatever goes wrong, an older file at ``path`` stays as it was and no temporary file is
    left, unless the process is killed; then :func:`remove_stale` clears it. The file behind a link is replaced, not
    the link, and mode and owner stay. What is no ordinary file (a device, a pipe) or is open as standard output or
    error is never replaced: it receives the bytes at the end of the block.

    Raises:
        AMDRestoreError: the folder or the file cannot be written; names the path and the reason.
    """
    with user_error(f"cannot write {path}", _ADVICE):
        target, old = real_target(path)
        if old is not None and (stream := _stream(target, old)) is not None:
            memory = io.BytesIO()
            yield memory
            with open(stream, "wb") as receiver:
                receiver.write(memory.getbuffer())
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(target.parent) as (temporary, file):
            with file:
                take_mode(temporary, old)  # before the content: the file to be replaced may be a private one
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)


def real_target(path: str | Path) -> tuple[Path, os.stat_result | None]:
    """The file that writing to ``path`` changes, behind all links, and its status; None if it is not there yet.

    Raises:
        OSError: it is a folder, it may not be written, or the links lead in a circle.
    """
    try:
        old = os.stat(path)
    except FileNotFoundError:
        return Path(os.path.realpath(path)), None
    if stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(0, "it is a folder")
    if not os.access(path, os.W_OK):
        raise PermissionError(0, "it is read-only")
    return Path(os.path.realpath(path) if stat.S_ISREG(old.st_mode) else path), old


def check_target(path: str | Path) -> None:
    """Refuse a path that no file can replace, before the work for it.

    Raises:
        AMDRestoreError: as :func:`open_atomically` would.
    """
    with user_error(f"cannot write {path}", _ADVICE):
        real_target(path)


def take_mode(path: Path, old: os.stat_result | None) -> None:
    """Give the file at ``path`` the owner, where that is allowed, and the mode of the one that it will replace."""
    if old is not None:
        with contextlib.suppress(OSError, AttributeError):  # only root may; Windows has no owners of this kind
            os.chown(path, old.st_uid, old.st_gid)
        os.chmod(path, stat.S_IMODE(old.st_mode))


def _stream(path: Path, status: os.stat_result) -> int | Path | None:
    """What to open in order to write into ``path`` as it is; None for an ordinary file, which may be replaced."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # it may be closed, or none of the system's
            if os.path.samestat(status, os.fstat(stream.fileno())):
                stream.flush()
                return os.dup(stream.fileno())  # behind what is there already
    return None if stat.S_ISREG(status.st_mode) else path


class _TriedError(Exception):
    """Ends a block of :func:`open_atomically` without a file."""


def try_writing(path: str | Path) -> None:
    """Write an empty file as :func:`open_atomically` does, and stop short of ``path``: nothing is left.

    Neither is anything of an earlier run that was killed, see :func:`remove_stale`.

    Raises:
        AMDRestoreError: as :func:`open_atomically`.
    """
    with contextlib.suppress(_TriedError), open_atomically(path) as file:
        with contextlib.suppress(io.UnsupportedOperation):  # memory, for what is no ordinary file
            os.fsync(file.fileno())  # some disks say only then that they are full
        raise _TriedError
    remove_stale(os.path.dirname(os.path.realpath(path)))


def remove_stale(folder: str | Path) -> int:
    """Remove temporary files in ``folder`` whose writer is dead; returns how many there were.

    The writer of a locked file lives. Files of another host, or without a lock on a file system that has none, count
    as dead after a day.
    """
    removed = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match is None:
                continue
            with contextlib.suppress(OSError):
                with open(entry.path, "rb") as file:
                    locked = try_lock(file)
                    dead = locked and match["host"] == _host()
                    old = time.time() - entry.stat().st_mtime > _OLD
                    if dead or (old and locked is not False):
                        os.unlink(entry.path)
                        removed += 1
    return removed


def expanded(path: str | Path) -> Path:
    """``path`` with ``~`` replaced by the home folder; as it is where there is none, as in many containers."""
    return Path(os.path.expanduser(path))


def option_path(path: str | Path) -> Path:
    """``path`` of an option file, with variables and ``~`` replaced."""
    return expanded(os.path.expandvars(path))


def path_option(text: str) -> Path:
    """Option type: a path, see :func:`expanded`; not empty, as that of an unset shell variable is."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return expanded(text)


@contextlib.contextmanager
def user_error(what: str, advice: str) -> Iterator[None]:
    """Turn an ``OSError`` of the body into one line, ``what: reason; advice``.

    Raises:
        AMDRestoreError: in place of the ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise AMDRestoreError(f"{what}: {(error.strerror or str(error)).lower()}; {advice}") from error


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file, locked; removed if the block fails, or an interruption comes before or behind it."""
    path, lock = folder, None
    try:
        while True:
            path = folder / f".amd-restore-{_host()}-{secrets.token_hex(8)}.part"
            file = open(path, "xb")
            # Another process may have taken it for a leftover before it was locked.
            if try_lock(file) is not False and path.exists():
                break
            file.close()
        lock = os.dup(file.fileno())  # holds the lock until the file has its name
        yield path, file
    except BaseException:  # An interruption must not leave the file either.
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def try_lock(file: IO[Any] | int) -> bool | None:
    """Lock an open file for as long as it, or a copy of its descriptor, is open, in this process or a child.

    Returns:
        Whether it is locked now; False if somebody else holds the lock, None if there are no locks here.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return None
    return True


@contextlib.contextmanager
def held(file: Path, taken: str, patience: float = 0.0) -> Iterator[int]:
    """Hold the lock of a file, which is made where it is missing, and stays.

    Args:
        file: lock file.
        taken: message if somebody else holds the lock.
        patience: seconds to wait for it.

    Yields:
        Its descriptor.

    Raises:
        AMDRestoreError: somebody else holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file, os.O_CREAT | os.O_RDWR, 0o644)
    end = time.monotonic() + patience
    try:
        while try_lock(handle) is False:
            if time.monotonic() >= end:
                raise AMDRestoreError(taken)
            time.sleep(0.2)
        yield handle
    finally:
        os.close(handle)


def is_plain_name(name: str) -> bool:
    """Return whether a name can be that of a file or folder in another folder: not empty, and no path."""
    return bool(name.strip()) and name not in (".", "..") and not set(name) & set("/\\")


def is_running(process: int) -> bool:
    """Whether there is a process of this number; not for Windows, where asking would end it."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
