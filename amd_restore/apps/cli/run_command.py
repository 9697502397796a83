"""How every command ends: its exit code, and one line on standard error when it fails or is interrupted."""

from __future__ import annotations

from collections.abc import Callable

from amd_restore.apps.cli.console import Console
from amd_restore.errors import AMDRestoreError

OK, SOME_FAILED, NOT_STARTED, INTERRUPTED = 0, 1, 2, 130


def run_command(
    command: Callable[[], int | None], console: Console, name: str = "", interrupted: str = "interrupted"
) -> int:
    """Run ``command`` and return the exit code: its own (None is OK), ``NOT_STARTED`` or ``INTERRUPTED``.

    Args:
        command: does the work.
        console: writes messages; shows the traceback of an error if it was made with ``debug``.
        name: put before the message of an error, as in "amd-restore export: no such model".
        interrupted: message after Ctrl-C.
    """
    try:
        return command() or OK
    except AMDRestoreError as error:
        console.complain(f"{name}: {error}" if name else str(error), error)
        return NOT_STARTED
    except KeyboardInterrupt:
        console.complain(interrupted)
        return INTERRUPTED
