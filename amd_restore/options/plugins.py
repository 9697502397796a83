"""Import of outside modules and files that register networks, losses, rewards, datasets, metrics, models."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from amd_restore.options.fields import OptionError


def import_named(names: Sequence[str]) -> None:
    """Import modules and files once, so that their decorators register classes.

    Args:
        names: modules of installed packages (``package.module``) or files (``folder/file.py``). The folder of a file is
            appended to ``sys.path``, so that data loading processes find it, too.

    Raises:
        OptionError: one of them cannot be imported; the message has the first line of the reason.
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
        except (Exception, SystemExit) as error:  # Outside code can raise anything.
            reason = (str(error) or "no message").splitlines()[0]
            raise OptionError(where, f"{name}: cannot be imported ({type(error).__name__}: {reason})") from error
        if is_file and Path(module.__file__ or "").resolve() != file.resolve():
            raise OptionError(where, f"{name}: another module is named {file.stem!r}; rename the file")
