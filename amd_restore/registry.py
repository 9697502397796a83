"""Names in option files -> classes: our own light registries, and BasicSR's when training asks for them.

``ARCH_REGISTRY``, ``REWARD_REGISTRY`` and ``LOSS_REGISTRY`` are ours and import nothing, so that inference runs without
BasicSR. ``MODEL_REGISTRY``, ``DATASET_REGISTRY`` and ``METRIC_REGISTRY`` are BasicSR's own objects, imported at first
use::

    from amd_restore.registry import MODEL_REGISTRY     # imports BasicSR here
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from amd_restore import compat
from amd_restore.errors import AMDRestoreError

ClassT = TypeVar("ClassT", bound=type)

_BASICSR_REGISTRIES = ("MODEL_REGISTRY", "DATASET_REGISTRY", "METRIC_REGISTRY")
_INFERENCE_PLUGINS = {"archs": "*_arch.py", "rewards": "*_reward.py", "losses": "*_loss.py"}
_TRAINING_PLUGINS = {"data": "*_dataset.py", "models": "*_model.py"}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error message about an unknown name: the nearest known one, or else all of them."""
    choices = sorted(known)
    # Case is the commonest slip (fooUnet), so names are compared without it.
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    if near:
        return f"did you mean {by_lower[near[0]]!r}?"
    return f"known: {', '.join(choices) or 'none'}"


class Registry:
    """A table of classes by name.

    Args:
        kind: what the entries are, for error messages: "architecture", "reward".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, type] = {}

    def register(self, name: str | None = None) -> Callable[[ClassT], ClassT]:
        """Decorator that enters a class under ``name``, or under its own name.

        Raises:
            ValueError: the name is taken by another class. A programming error, hence not for a user.
        """

        def decorator(cls: ClassT) -> ClassT:
            key = name or cls.__name__
            taken = self._entries.get(key)
            if taken is not None and (taken.__module__, taken.__qualname__) != (
                cls.__module__,
                cls.__qualname__,
            ):
                raise ValueError(f"{self.kind} {key!r} is already registered by {taken.__module__}")
            self._entries[key] = cls
            return cls

        return decorator

    def get(self, name: str) -> type[Any]:
        """The class registered as ``name``.

        Raises:
            AMDRestoreError: no such entry; the message names the nearest one.
        """
        if name not in self._entries:
            raise AMDRestoreError(f"unknown {self.kind} {name!r}; {did_you_mean(str(name), self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)


ARCH_REGISTRY = Registry("architecture")
REWARD_REGISTRY = Registry("reward")
LOSS_REGISTRY = Registry("loss")


def register_all(training: bool = False) -> None:
    """Import every plug-in file once, so that its decorators run; new files are found by their suffix.

    Args:
        training: also the datasets and models, which need BasicSR, and mirror our networks into its registry.

    Raises:
        AMDRestoreError: ``training`` without BasicSR installed.
    """
    plugins = dict(_INFERENCE_PLUGINS)
    if training:
        import_basicsr()
        plugins |= _TRAINING_PLUGINS
    for package, pattern in plugins.items():
        import_plugins(package, pattern)
    if training:
        connect_basicsr()


def import_plugins(package: str, pattern: str) -> None:
    """Import the files of a folder of this package, and of its folders, whose names match ``pattern``."""
    root = Path(__file__).parent
    for file in sorted((root / package).rglob(pattern)):
        module = ".".join(file.relative_to(root).with_suffix("").parts)
        importlib.import_module(f"{__package__}.{module}")


def connect_basicsr() -> None:
    """Enter our networks into BasicSR's ``ARCH_REGISTRY``, so that its ``build_network`` finds them.

    Raises:
        AMDRestoreError: BasicSR is not installed, or has another network of the same name.
    """
    theirs = import_basicsr().ARCH_REGISTRY
    for name in ARCH_REGISTRY:
        cls = ARCH_REGISTRY.get(name)
        if name not in theirs:
            theirs._do_register(name, cls)  # register() knows only cls.__name__
        elif theirs.get(name) is not cls:
            raise AMDRestoreError(f"architecture {name!r} is also the name of a BasicSR network; rename ours")


def import_basicsr() -> Any:
    """BasicSR's ``basicsr.utils.registry`` module, imported with the mends of :mod:`amd_restore.compat`.

    Raises:
        AMDRestoreError: BasicSR is not installed.
    """
    compat.patch()
    try:
        return importlib.import_module("basicsr.utils.registry")
    except ModuleNotFoundError as error:
        if error.name != "basicsr":
            raise
        raise AMDRestoreError(
            'training needs BasicSR; install it with: pip install ".[train]" in the clone of this repository'
        ) from error


def __getattr__(name: str) -> Any:
    if name in _BASICSR_REGISTRIES:
        return getattr(import_basicsr(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
