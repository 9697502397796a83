"""The command line ``amd-restore [COMMAND] ...``; without a command it restores."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from amd_restore.errors import run_command

# Each module of this package has a ``main`` and is imported when chosen, so --help needs neither torch nor an extra.
COMMANDS = ("restore", "export", "prompts", "video", "ui", "doctor", "release")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that starts ``arguments`` (default: those of the process); return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments.pop(0) if arguments and arguments[0] in COMMANDS else "restore"

    def command() -> int:
        return int(importlib.import_module(f"amd_restore.apps.cli.{name}").main(arguments))

    return run_command(command, name=f"amd-restore {name}")
