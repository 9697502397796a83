"""Finding and running the program ffmpeg."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import IO

from amd_restore.errors import AMDRestoreError

# ffmpeg must not read the terminal, nor receive its Ctrl-C before the pipes are closed.
_QUIET = ("-nostdin", "-hide_banner", "-nostats", "-loglevel")
_WHO_SAYS_IT = re.compile(r"^(\[[^\]]*@ 0x[0-9a-f]+\] *)+")


class FFmpegError(AMDRestoreError):
    """Failure of ffmpeg; the message is its first line of output."""


class FFmpeg:
    """ffmpeg 5.1 or later.

    Args:
        program: path or name; None for that on the PATH, else that of the package imageio-ffmpeg.

    Raises:
        AMDRestoreError: not found.
    """

    def __init__(self, program: str | Path | None = None) -> None:
        found = shutil.which(program or "ffmpeg") or (None if program else _packaged())
        if found is None:
            where = f"at {program}" if program else "on the PATH"
            raise AMDRestoreError(
                f"video needs the program ffmpeg and there is none {where}; "
                "install it (apt install ffmpeg) or its package (pip install 'amd-restore[video]')"
            )
        self.program = found

    @cached_property
    def version(self) -> str:
        """Return the first line of ``ffmpeg -version``."""
        answer = subprocess.run([self.program, "-version"], capture_output=True, text=True, errors="replace")
        return answer.stdout.partition("\n")[0]

    def run(self, arguments: Sequence[str], level: str = "error") -> str:
        """Run to the end and return the text on standard error.

        Args:
            arguments: files as from :func:`url`.
            level: ffmpeg's log level.

        Raises:
            FFmpegError: it failed.
        """
        answer = subprocess.run(
            [self.program, *_QUIET, level, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        if answer.returncode:
            raise FFmpegError(_reason(answer.stderr, answer.returncode))
        return answer.stderr

    def start(self, arguments: Sequence[str], *, reads: bool = False) -> FFmpegProcess:
        """Start with a pipe: to its standard input if it ``reads``, else from its standard output."""
        return FFmpegProcess([self.program, *_QUIET, "error", *arguments], reads)


class FFmpegProcess:
    """Running ffmpeg with one pipe; a context that ends the process.

    Args:
        command: program and arguments.
        reads: whether the pipe leads to it.
    """

    def __init__(self, command: Sequence[str], reads: bool) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # an unread pipe would fill up and block
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if reads else subprocess.PIPE,
            stderr=self._said,
            start_new_session=True,
        )
        pipe = self._process.stdin if reads else self._process.stdout
        assert pipe is not None
        self.pipe: IO[bytes] = pipe

    def __enter__(self) -> FFmpegProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        try:
            self.pipe.close()
        except BrokenPipeError:
            pass
        self._said.close()

    def finish(self) -> None:
        """Close the pipe and wait.

        Raises:
            FFmpegError: it failed.
        """
        try:
            self.pipe.close()
        except BrokenPipeError:
            pass  # The exit status reports the failure.
        if status := self._process.wait():
            self._said.seek(0)
            raise FFmpegError(_reason(self._said.read().decode(errors="replace"), status))


def url(path: Path) -> str:
    """Return ``path`` for ffmpeg, safe for names that look like options or protocols."""
    return f"file:{path}"


def _packaged() -> str | None:
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:  # There is no binary for this platform.
        return None


def _reason(said: str, status: int) -> str:
    """Return the first meaningful line."""
    lines = [_WHO_SAYS_IT.sub("", line).strip() for line in said.splitlines()]
    first = next((line.rstrip(".") for line in lines if line), f"ffmpeg ended with status {status}")
    return first if len(first) <= 200 else f"{first[:200]}..."
