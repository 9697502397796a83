"""Checks of values from yml against type annotations.

Blocks are frozen dataclasses whose fields are made by :func:`option`; :func:`check` walks a raw value along the
annotations, and :func:`build` turns the checked value into dataclass instances.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from amd_restore.errors import AMDRestoreError
from amd_restore.registry import did_you_mean

ASSETS_VARIABLE = "AMD_RESTORE_ASSETS"
ASSETS_DEFAULT = "~/.cache/amd_restore"

_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


class OptionError(AMDRestoreError):
    """Wrong option; ``where`` is its dotted key, ``problem`` the reason."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}" if where else problem)
        self.where, self.problem = where, problem


@dataclasses.dataclass(frozen=True)
class Plugin:
    """Annotation of a block ``{type: NAME, ...}`` whose other keys are arguments of a registered class.

    Attributes:
        find: class by name, or a function with the same arguments; raises :class:`AMDRestoreError` for an unknown name.
        given: arguments that the program supplies; not allowed in a file.
        common: option dataclass of the keys that every such block has, whatever its class; its field ``arguments``
            takes the others. With None, :func:`build` leaves the block as it is.
    """

    find: Callable[[str], Callable[..., Any]]
    given: tuple[str, ...] = ()
    common: type | None = None
    lowest: int | None = None


@dataclasses.dataclass(frozen=True)
class Limits:
    """Annotation of a constructor's argument: bounds as in :func:`option`."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def given(self) -> dict[str, float]:
        """Return the bounds that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}


class _ExpandedPath:
    """Annotation of text that is a path: ``~`` and ``${VARIABLES}`` are expanded."""


_WHOLE = (int, int | None, Sequence[int])
PathText = Annotated[str, _ExpandedPath()]


class _Duration:
    """Annotation of a time: a number of seconds, or text like ``540s``, ``30m``, ``8h``, ``2d``."""


Duration = Annotated[float, _Duration()]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def option(
    default: Any = dataclasses.MISSING,
    doc: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """Declare a field of an option block.

    Args:
        default: value if the file does not give the key; left out for a required key. Lists are copied.
        doc: meaning, unit and range in a few words.
        low: smallest allowed value, checked on the items of lists too.
        high: largest allowed value.
        above: the value must be greater than this.
        below: the value must be less than this.
    """
    metadata = {"doc": doc, "limits": Limits(low, high, above, below).given()}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check(value: Any, annotation: Any, where: str, limits: Mapping[str, float] | None = None) -> Any:
    """Return ``value`` as a plain value of the annotated type: text like ``1e-4`` becomes a number, paths are expanded.

    Args:
        value: output of the yml parser.
        annotation: ``bool``, ``int``, ``float``, ``str``, ``Literal``, ``X | None``, ``list[X]``, ``dict[str, X]``,
            :data:`PathText`, :data:`Duration`, ``Annotated[..., Plugin or Limits]`` or an option dataclass. Values of
            other annotations are not checked.
        where: dotted key, for messages.
        limits: bounds on numbers, as in :func:`option`.

    Raises:
        OptionError: unknown key, wrong type or value out of range.
    """
    limits = limits or {}
    origin, args = get_origin(annotation), get_args(annotation)
    if dataclasses.is_dataclass(annotation):
        return _check_block(value, annotation, where)
    if origin is Annotated:
        if isinstance(args[1], Plugin):
            return _check_plugin(value, args[1], where)
        if isinstance(args[1], _Duration):
            return _seconds(value, where, limits)
        if isinstance(args[1], Limits):
            return check(value, args[0], where, args[1].given())
        text = check(value, args[0], where, limits)
        return _expand(text, where) if isinstance(args[1], _ExpandedPath) else text
    if origin in (Union, types.UnionType):
        return _check_union(value, annotation, args, where, limits)
    if origin is Literal:
        return _check_choice(value, args, where)
    if origin in (list, tuple, Sequence):
        if not isinstance(value, (list, tuple)):
            raise OptionError(where, f"expected a list, got {_show(value)}")
        kinds = args if origin is tuple and args[1:] != (...,) else args[:1] * len(value)
        if len(value) != len(kinds):
            raise OptionError(where, f"expected {len(kinds)} values, got {len(value)}")
        pairs = zip(value, kinds, strict=True)
        return [check(item, kind, f"{where}.{index}", limits) for index, (item, kind) in enumerate(pairs)]
    if origin is dict:
        return {key: check(item, args[1], f"{where}.{key}", limits) for key, item in _mapping(value, where).items()}
    if annotation in _NAMES:
        return _check_scalar(value, annotation, where, limits)
    return value


def build(value: Any, annotation: Any, where: str = "") -> Any:
    """Return the checked ``value`` with its blocks turned into instances of their dataclasses.

    Raises:
        OptionError: values contradict each other (a ``ValueError`` of the dataclass's ``__post_init__``).
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if value is None:
        return None
    if origin is Annotated:
        return _build_plugin(value, args[1], where) if isinstance(args[1], Plugin) else value
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        hints = typing.get_type_hints(annotation, include_extras=True)
        fields = {key: build(item, hints[key], _join(where, key)) for key, item in value.items()}
        return _construct(annotation, fields, where)
    if origin in (Union, types.UnionType):
        blocks = [arg for arg in args if arg is not type(None)]
        return build(value, blocks[0], where) if len(blocks) == 1 else value
    if origin is list:
        return [build(item, args[0], f"{where}.{index}") for index, item in enumerate(value)]
    if origin is dict:
        return {key: build(item, args[1], f"{where}.{key}") for key, item in value.items()}
    return value


def _build_plugin(value: dict[str, Any], plugin: Plugin, where: str) -> Any:
    if plugin.common is None:
        return value
    own = {key: value[key] for key in _fields(plugin.common) if key in value}
    arguments = {key: item for key, item in value.items() if key not in own}
    return _construct(plugin.common, {**own, "arguments": arguments}, where)


def _construct(block: Any, fields: Mapping[str, Any], where: str) -> Any:
    try:
        return block(**fields)
    except ValueError as error:
        raise OptionError(where, str(error)) from error


def _fields(block: Any) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of an option dataclass by name."""
    return {field.name: field for field in dataclasses.fields(block) if "doc" in field.metadata}


def defaults(block: type) -> dict[str, Any]:
    """Return the default values of an option dataclass, without required keys."""
    found = {}
    for field in _fields(block).values():
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _show(value: Any) -> str:
    kind = "null" if value is None else f"{type(value).__name__} {value!r}"
    return kind if len(kind) <= 60 else kind[:57] + "..."


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise OptionError(where, f"expected keys and values, got {_show(value)}")
    for key in value:
        if not isinstance(key, str):
            raise OptionError(where, f"expected a name as key, got {_show(key)}")
    return value


def _check_block(value: Any, block: Any, where: str) -> dict[str, Any]:
    """Check a mapping against an option dataclass."""
    fields = _fields(block)
    for key in _mapping(value, where):
        if key not in fields:
            raise OptionError(_join(where, key), f"unknown key; {did_you_mean(key, fields)}")
    return _check_fields(value, block, where)


def _check_fields(value: Mapping[str, Any], block: Any, where: str) -> dict[str, Any]:
    """Check the keys of a mapping that are fields of an option dataclass; ignore others."""
    fields, hints = _fields(block), typing.get_type_hints(block, include_extras=True)
    checked = {
        key: check(item, hints[key], _join(where, key), fields[key].metadata["limits"])
        for key, item in value.items()
        if key in fields
    }
    for key in set(fields) - set(checked) - set(defaults(block)):
        raise OptionError(_join(where, key), "missing")
    return checked


def _check_plugin(value: Any, plugin: Plugin, where: str) -> dict[str, Any]:
    """Check ``{type: NAME, ...}`` against the signature of the class registered as NAME."""
    value = _mapping(value, where)
    if not isinstance(value.get("type"), str):
        raise OptionError(_join(where, "type"), "missing; it names the class to build")
    try:
        cls = plugin.find(value["type"])
    except AMDRestoreError as error:
        raise OptionError(_join(where, "type"), str(error)) from error
    common = {"type"} if plugin.common is None else {"type", *_fields(plugin.common)}
    parameters = {n: p for n, p in inspect.signature(cls).parameters.items() if n not in {*plugin.given, *common}}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    hints = _argument_hints(cls)
    checked = {"type": value["type"]}
    for key, item in value.items():
        if key in common:
            continue
        if key not in named and not takes_any:
            hint = did_you_mean(key, {*named, *common})
            raise OptionError(_join(where, key), f"{value['type']} has no such argument; {hint}")
        hint = hints.get(key, Any)
        bounds = {"low": plugin.lowest} if plugin.lowest is not None and hint in _WHOLE else None
        checked[key] = check(item, hint, _join(where, key), bounds)
    if plugin.common is not None:
        checked |= _check_fields(value, plugin.common, where)
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in checked:
            raise OptionError(_join(where, name), f"missing; {value['type']} needs it")
    return {key: checked[key] for key in value}


def _argument_hints(cls: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls.__init__ if inspect.isclass(cls) else cls, include_extras=True)
    except NameError:
        return {}  # Annotations imported under TYPE_CHECKING cannot be resolved, so only names are checked.


def _check_union(value: Any, annotation: Any, args: tuple[Any, ...], where: str, limits: Mapping[str, float]) -> Any:
    if value is None and type(None) in args:
        return None
    choices = [arg for arg in args if arg is not type(None)]
    choices = [arg for arg in choices if _is_in_yaml(arg)] or choices
    if len(choices) == 1:
        return check(value, choices[0], where, limits)
    for choice in choices:
        try:
            return check(value, choice, where, limits)
        except OptionError as error:
            # The type is right and the value is wrong, so this message is the useful one.
            if isinstance(value, (int, float)) and choice in (int, float) and "expected" not in error.problem:
                raise
    expected = " or ".join(_describe(choice) for choice in choices)
    raise OptionError(where, f"expected {expected}, got {_show(value)}")


def _is_in_yaml(annotation: Any) -> bool:
    """Return whether a yml file can hold such a value (not a tensor or a device)."""
    plain = (*_NAMES, Any, object, dict, list, tuple)
    return not inspect.isclass(annotation) or dataclasses.is_dataclass(annotation) or annotation in plain


def _describe(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(repr(choice) for choice in get_args(annotation))
    if get_origin(annotation) is list:
        return "a list"
    return _NAMES.get(annotation, str(annotation))


def _check_choice(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    if value in choices and type(value) in {type(choice) for choice in choices}:
        return value
    hint = did_you_mean(str(value), [str(choice) for choice in choices])
    raise OptionError(where, f"unknown value {_show(value)}; {hint}")


def _check_scalar(value: Any, kind: type, where: str, limits: Mapping[str, float]) -> Any:
    result = _as_number(value, kind) if kind in (int, float) else value
    if type(result) is not kind:
        raise OptionError(where, f"expected {_NAMES[kind]}, got {_show(value)}")
    if isinstance(result, (int, float)) and kind is not bool:
        _check_limits(result, limits, where)
    return result


def _seconds(value: Any, where: str, limits: Mapping[str, float]) -> float:
    unit = _UNITS.get(value[-1:]) if isinstance(value, str) else None
    number = _as_number(value[:-1] if unit else value, float)
    if number is None:
        raise OptionError(where, f"expected a time like 540s, 30m or 8h, got {_show(value)}")
    _check_limits(number * (unit or 1), limits, where)
    return number * (unit or 1)


def _as_number(value: Any, kind: type) -> int | float | None:
    """Return ``value`` as ``kind`` (int or float), None if it is no such number; YAML 1.1 reads 1e-4 as text."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return kind(value) if abs(value) < 2**63 else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if kind is float:
        return number if math.isfinite(number) else None
    return int(number) if number.is_integer() else None


def _check_limits(value: float, limits: Mapping[str, float], where: str) -> None:
    tests: dict[str, tuple[Callable[[float], bool], str]] = {
        "low": (lambda limit: value >= limit, "at least"),
        "high": (lambda limit: value <= limit, "at most"),
        "above": (lambda limit: value > limit, "greater than"),
        "below": (lambda limit: value < limit, "less than"),
    }
    wanted = [f"{words} {limits[name]:g}" for name, (_, words) in tests.items() if name in limits]
    if not all(tests[name][0](limit) for name, limit in limits.items()):
        raise OptionError(where, f"must be {' and '.join(wanted)}, got {value:g}")


def _expand(text: str, where: str) -> str:
    with_assets = {ASSETS_VARIABLE: os.environ.get(ASSETS_VARIABLE) or ASSETS_DEFAULT}
    expanded = text
    for variable, folder in with_assets.items():
        expanded = expanded.replace(f"${{{variable}}}", folder).replace(f"${variable}", folder)
    expanded = os.path.expandvars(expanded)
    if "$" in expanded:
        raise OptionError(where, f"{text}: the environment variable in it is not set")
    return os.path.expanduser(expanded)
