"""The command line ``amd-restore [COMMAND] ...``; without a command it restores."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from amd_restore.errors import NOT_STARTED, complain, run_command
from amd_restore.registry import did_you_mean

# Each module of this package has a ``main`` and is imported when chosen, so --help needs neither torch nor an extra.
COMMANDS = ("restore", "export", "prompts", "video", "ui", "doctor", "release")
_ELSEWHERE = {
    "train": "python amd_restore/train.py -opt FILE",
    "test": "python amd_restore/test.py -opt FILE",
    "benchmark": "python -m amd_restore.benchmark -opt FILE",
    "serve": "amd-restore ui",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that starts ``arguments`` (default: those of the process); return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments.pop(0) if arguments and arguments[0] in COMMANDS else "restore"
    if name == "restore" and arguments and not arguments[0].startswith("-"):
        complain(f"amd-restore: {_meant(arguments[0])}; see amd-restore --help")
        return NOT_STARTED

    def command() -> int:
        return int(importlib.import_module(f"amd_restore.apps.cli.{name}").main(arguments))

    return run_command(command, name=f"amd-restore {name}")


def _meant(word: str) -> str:
    """Return what stands in the place of a command, and what was probably meant."""
    if word in _ELSEWHERE:
        return f"no command {word!r}; it is {_ELSEWHERE[word]}"
    if os.path.exists(word) or "." in word:
        return f"inputs are named with -i: -i {word}"
    return f"no command {word!r}; {did_you_mean(word, COMMANDS)}"
