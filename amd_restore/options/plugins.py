"""Modules and files outside the package that register networks, losses, rewards, datasets, metrics, models."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from amd_restore.options.fields import OptionError


def import_named(names: Sequence[str]) -> None:
    """Import them, so that their decorators run; what was imported before is not imported again.

    Args:
        names: of modules of installed packages (``package.module``), or paths of files (``folder/file.py``). The folder
            of a file comes last in ``sys.path``, so that processes that load data find it too.

    Raises:
        OptionError: one of them cannot be imported; one line with the first line of the reason.
    """
    for index, name in enumerate(names):
        where, file = f"plugins.{index}", Path(name)
        is_file = file.suffix == ".py"
        if is_file and not file.is_file():
            raise OptionError(where, f"{name}: no such file")
        if is_file and str(file.parent) not in sys.path:
            sys.path.append(str(file.parent))
        try:
            module = importlib.import_module(file.stem if is_file else name)
        except Exception as error:  # whatever a foreign file raises
            reason = (str(error) or "no message").splitlines()[0]
            raise OptionError(where, f"{name}: cannot be imported ({type(error).__name__}: {reason})") from error
        if is_file and Path(module.__file__ or "").resolve() != file.resolve():
            raise OptionError(where, f"{name}: another module is named {file.stem!r}; rename the file")
