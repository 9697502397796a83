"""Restoring from standard input and to standard output."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from amd_restore.apps.cli.console import STANDARD, Console
from amd_restore.apps.files.plan import EXTENSIONS, is_done, is_image_name
from amd_restore.apps.files.settings import Settings
from amd_restore.atomic import write_atomically
from amd_restore.errors import AMDRestoreError, note, write_output


def restore_bytes(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Restore one image from standard input, or to standard output, or both.

    Standard output has the format of ``--ext``, PNG by default; nothing is written if restoring fails.

    Returns:
        0.

    Raises:
        AMDRestoreError: no input, an option that needs files, or an error of :class:`Restorer`.
    """
    for given, name in (
        (options.json, "--json"),
        (settings.compare, "--compare"),
        (settings.uncertainty, "--uncertainty"),
        (settings.n_samples > 1, "--n-samples"),
        (settings.frames, "--frames"),
    ):
        if given:
            raise AMDRestoreError(f"{name} needs files; it cannot be used with -")
    name = "standard input" if options.input == STANDARD else str(options.input)
    if options.input == STANDARD:
        data = sys.stdin.buffer.read() if sys.stdin else b""
        if not data:
            raise AMDRestoreError("standard input: nothing came in; pipe an image into the command")
    elif options.input.is_dir():
        raise AMDRestoreError(f"{options.input}: a folder cannot be written to standard output; name a folder with -o")
    else:
        try:
            data = options.input.read_bytes()
        except OSError as error:
            raise AMDRestoreError(f"{options.input}: cannot be read ({error.strerror}); check -i") from error
    suffix = EXTENSIONS.get(options.ext, ".png")
    target = _target(options, suffix)
    if target is not None and is_done(target) and not options.overwrite:
        console.say(f"{target}: already there; --overwrite replaces it")
        return 0

    from amd_restore.apps.files.restorer import Restorer

    restorer = Restorer(settings)
    note(restorer.advice)
    try:
        answer = restorer.restore_bytes(data, target.suffix if target else suffix)
    except AMDRestoreError as error:
        raise AMDRestoreError(f"{name}: {error}") from error
    if target is None:
        write_output(answer)
    else:
        write_atomically(target, answer)
        console.say(f"restored {name} into {target}")
    return 0


def _target(options: argparse.Namespace, suffix: str) -> Path | None:
    """Return the file to write, None for standard output."""
    output: Path = options.output
    if output == STANDARD:
        return None
    if is_image_name(output) and not output.is_dir():
        return output.with_name(f"{output.stem}{options.suffix}{EXTENSIONS.get(options.ext, output.suffix)}")
    return output / f"stdin{options.suffix}{suffix}"
