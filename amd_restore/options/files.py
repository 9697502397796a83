"""Reading of option files: YAML, ``base`` files and overrides from the command line.

Nothing in them is evaluated; ``plugins`` names modules and files that are imported, see :mod:`.plugins`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amd_restore.atomic import expanded, write_atomically
from amd_restore.errors import AMDRestoreError

BASE = "base"  # key of the files that a file builds on
PLUGINS = "plugins"  # key of the modules and files that are imported before the other options are checked


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Return the keys and values of a yml file.

    Raises:
        AMDRestoreError: missing or unreadable file, bad YAML (with its line), a key given twice, or no mapping.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise AMDRestoreError(f"{file}: no such option file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise AMDRestoreError(f"{file}: cannot be read as a text file ({error})") from error
    content = _parse(text, str(file))
    if not isinstance(content, dict):
        raise AMDRestoreError(f"{file}: expected keys and values, got {type(content).__name__}")
    return content


@dataclass(frozen=True)
class OptionFile:
    """Content of an option file merged with the files that it builds on and with overrides.

    A file's ``base`` is a file or a list of them, relative to its own folder. They are merged in order,
    each after its own bases, then the file itself, then the overrides.

    Attributes:
        path: the file.
        layers: name and content of each file and override, in that order.
        content: all of them merged, see :func:`merge`.
    """

    path: Path
    layers: tuple[tuple[str, dict[str, Any]], ...]
    content: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path, force: Sequence[str] = ()) -> OptionFile:
        """Read a file, its bases and overrides ``a:b=value``.

        Args:
            path: option file.
            force: overrides as on BasicSR's command line; ``value`` is YAML, and a number selects an entry of a list
                (``rewards:0:weight=2``).

        Raises:
            AMDRestoreError: as :func:`read_yaml`; bases in a circle; an override that matches no key.
        """
        layers: list[tuple[str, dict[str, Any]]] = []
        content: dict[str, Any] = {}
        for file, layer in _layers(Path(path), ()):
            layers.append((str(file) if file == Path(path) else f"{file} (base of {path})", layer))
            content = merge(content, layer)
        for entry in force:
            keys, value = _parse_override(entry)
            _override(content, keys, value, entry)
            for key in reversed(keys):
                value = {key: value}
            layers.append((f"{path} (with --force_yml {entry})", value))
        return cls(Path(path), tuple(layers), content)

    def place(self, where: str) -> str:
        """Return the name of the file or override that sets a dotted key; this file if none does."""
        for name, layer in reversed(self.layers):
            if _has(layer, where.split(".")):
                return name
        return str(self.path)

    def write(self, path: Path, comment: str) -> None:
        """Write the merged content as one file without ``base``.

        Args:
            path: the new file.
            comment: lines at its top.

        Raises:
            AMDRestoreError: it cannot be written.
        """
        import yaml

        head = "".join(f"# {line}\n" for line in comment.splitlines())
        text = yaml.safe_dump(self.content, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
        write_atomically(path, f"{head}{text}".encode())


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes``; neither argument is modified.

    Blocks are merged key by key. Lists, single values and blocks of another ``type`` replace those of ``base``; null
    removes a key of ``base``.
    """
    result = copy.deepcopy(dict(base))
    for key, value in changes.items():
        before = result.get(key)
        if value is None and before is not None:
            del result[key]
        elif isinstance(value, Mapping) and isinstance(before, Mapping) and _same_type(before, value):
            result[key] = merge(before, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _same_type(before: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    return "type" not in value or value["type"] == before.get("type")


def _layers(path: Path, above: tuple[Path, ...]) -> list[tuple[Path, dict[str, Any]]]:
    """Return paths and contents of a file's bases, then its own; ``above`` are the files that build on it."""
    label = f"{above[-1]}: {BASE}: " if above else ""
    if path.resolve() in [file.resolve() for file in above]:
        raise AMDRestoreError(f"{label}{' -> '.join(map(str, (*above, path)))} is a circle")
    try:
        content = read_yaml(path)
    except AMDRestoreError as error:
        raise AMDRestoreError(f"{label}{error}") from error
    bases = content.pop(BASE, None)
    bases = [bases] if isinstance(bases, str) else [] if bases is None else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) and base for base in bases):
        raise AMDRestoreError(f"{path}: {BASE}: expected an option file or a list of them, got {bases!r}")
    if isinstance(plugins := content.get(PLUGINS), list):
        content[PLUGINS] = [_from_folder(path.parent, name) if str(name).endswith(".py") else name for name in plugins]
    below = [layer for base in bases for layer in _layers(path.parent / base, (*above, path))]
    return [*below, (path, content)]


def _from_folder(folder: Path, name: str) -> str:
    return str((folder / expanded(name)).resolve())


def _has(node: Any, keys: Sequence[str]) -> bool:
    """Return whether nested mappings contain the keys; entries of a list have the place of the list."""
    for key in keys:
        if isinstance(node, list):
            return True
        if not isinstance(node, Mapping) or key not in node:
            return False
        node = node[key]
    return True


@functools.lru_cache(maxsize=64)  # A run reads its files more than once, and files have bases in common.
def _loaded(text: str) -> Any:
    import yaml

    from amd_restore.options.loader import Loader

    return yaml.load(text, Loader=Loader)


def _parse(text: str, label: str) -> Any:
    import yaml

    try:
        return _unshare(_loaded(text))
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise AMDRestoreError(f"{label}: {line}not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise AMDRestoreError(f"{label}: not valid YAML: {str(error).splitlines()[0]}") from error


def _unshare(value: Any) -> Any:
    """Copy with a separate value for each YAML alias (``*net``), so that an override changes only one place.

    It also leaves the parsed content, which is kept, as it is.
    """
    if isinstance(value, dict):
        return {key: _unshare(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unshare(item) for item in value]
    return value


def _parse_override(entry: str) -> tuple[list[str], Any]:
    """Split ``a:b=value`` into keys and value."""
    keys_text, equals, value_text = entry.partition("=")
    keys = [key.strip() for key in keys_text.split(":")]
    if not equals or not all(keys):
        raise AMDRestoreError(f"--force_yml {entry}: expected key=value or block:key=value")
    return keys, _parse(value_text, f"--force_yml {entry}")


def _override(opt: dict[str, Any], keys: Sequence[str], value: Any, entry: str) -> None:
    """Set the value at ``keys``, or take away what null stands for; ``entry`` is for messages."""
    node: Any = opt
    for key in keys[:-1]:
        node = _child(node, key, entry)
    last = _index(node, keys[-1], entry) if isinstance(node, list) else keys[-1]
    if value is None and (isinstance(node, list) or node.get(last) is not None):
        del node[last]
    else:
        node[last] = value


def _child(node: Any, key: str, entry: str) -> Any:
    if isinstance(node, list):
        child = node[_index(node, key, entry)]
    else:
        if node.get(key) is None:
            node[key] = {}
        child = node[key]
    if not isinstance(child, (dict, list)):
        raise AMDRestoreError(f"--force_yml {entry}: {key} is a single value, not a block")
    return child


def _index(node: list[Any], key: str, entry: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise AMDRestoreError(f"--force_yml {entry}: {key} is no position in a list of {len(node)}")
    return int(key)
