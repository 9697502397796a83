"""Reading option files, with overrides from the command line; nothing is ever evaluated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from amd_restore.errors import AMDRestoreError
from amd_restore.options.run import RunOptions


class _Loader(yaml.SafeLoader):
    """Safe loading that also refuses a key given twice and reads ``1e-4`` as the number it is."""


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, (str, int, float, bool, type(None))):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a name", key_node.start_mark)
        if key in seen and key != "<<":
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Keys and values of a yml file.

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


def load_options(path: str | Path, force: Sequence[str] = (), required: Sequence[str] = ()) -> dict[str, Any]:
    """Options of a run as nested plain values, checked.

    Args:
        path: option file.
        force: overrides ``a:b=value`` as on BasicSR's command line; ``value`` is YAML, and a number selects an entry
            of a list (``rewards:0:weight=2``). New keys are allowed where the key is a known one.
        required: blocks that this use of the file needs: ``train``, ``datasets`` ...

    Raises:
        AMDRestoreError: one line with file, dotted key, problem and nearest known name.
    """
    opt = read_yaml(path)
    label = str(path)
    for entry in force or ():
        _override(opt, entry)
    if force:
        label += f" (with --force_yml {' '.join(force)})"
    checked = RunOptions.check(opt, label)
    for key in required:
        if not checked.get(key):
            raise AMDRestoreError(f"{label}: {key}: missing; this command needs it")
    return checked


def check_devices(opt: dict[str, Any], file: str | Path) -> None:
    """Compare ``num_gpu`` with this machine.

    Raises:
        AMDRestoreError: more GPUs are asked for than there are.
    """
    import torch

    wanted, there = opt.get("num_gpu", "auto"), torch.cuda.device_count()
    if wanted != "auto" and wanted > there:
        count = f"{there} GPU" + ("" if there == 1 else "s")
        raise AMDRestoreError(f"num_gpu: {wanted} in {file} but this machine has {count}; set num_gpu: {there} or auto")


def _parse(text: str, label: str) -> Any:
    try:
        return _unshare(yaml.load(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise AMDRestoreError(f"{label}: {line}not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise AMDRestoreError(f"{label}: not valid YAML: {str(error).splitlines()[0]}") from error


def _unshare(value: Any) -> Any:
    """Copy in which a YAML alias (``*net``) is a value of its own, so that an override changes only what it names."""
    if isinstance(value, dict):
        return {key: _unshare(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unshare(item) for item in value]
    return value


def _override(opt: dict[str, Any], entry: str) -> None:
    """Apply one ``a:b=value``."""
    keys_text, equals, value_text = entry.partition("=")
    keys = [key.strip() for key in keys_text.split(":")]
    if not equals or not all(keys):
        raise AMDRestoreError(f"--force_yml {entry}: expected key=value or block:key=value")
    value = _parse(value_text, f"--force_yml {entry}")
    node: Any = opt
    for key in keys[:-1]:
        node = _child(node, key, entry)
    if isinstance(node, list):
        node[_index(node, keys[-1], entry)] = value
    else:
        node[keys[-1]] = value


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
