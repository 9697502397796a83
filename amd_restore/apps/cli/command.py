"""The command line ``amd-restore [COMMAND] ...``; without a command it restores."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

# Modules of this package, each with a ``main``; imported when chosen, so that --help needs neither torch nor an extra.
COMMANDS = ("restore", "export", "prompts", "video", "ui", "release")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ``arguments`` (default: those of the process) begin with; return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments.pop(0) if arguments and arguments[0] in COMMANDS else "restore"
    return int(importlib.import_module(f"amd_restore.apps.cli.{name}").main(arguments))
