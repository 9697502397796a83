"""Models that the page offers, loaded when first used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from amd_restore.inference import memory
from amd_restore.pipeline import AUTO, RestorationPipeline, files_of
from amd_restore.weights import DEFAULT_MODEL, Header, read_header, released_models, resolve_weights

# Bytes of free memory per byte of a weights file, below which the loaded models are freed before another is loaded.
_ROOM = 50


class Models:
    """The model of ``--model``, ``auto`` and the released ones.

    Args:
        chosen: ``auto``, or released name, file or folder of the first model, which is loaded at once.
        load: loads a weights file, or the models of ``auto``.

    Attributes:
        headers: headers by the name that the page shows; the chosen model is the first.

    Raises:
        AMDRestoreError: no such weights, or as ``load``.
    """

    def __init__(self, chosen: str | Path, load: Callable[[str | Path], RestorationPipeline]) -> None:
        released, self._load = released_models(), load
        offered = {AUTO: released[DEFAULT_MODEL]} | released
        path = offered[AUTO] if chosen == AUTO else resolve_weights(chosen)
        same = (name for name, other in released.items() if other.samefile(path))
        first = AUTO if chosen == AUTO else next(same, "")
        if not first:
            first = read_header(path).name
            if first in offered:
                first = f"{first} ({path.name})"
        self._paths = {first: path} | {name: other for name, other in offered.items() if name != first}
        self.headers: dict[str, Header] = {name: read_header(other) for name, other in self._paths.items()}
        self.first = first
        self._loaded: dict[str, RestorationPipeline] = {}
        self.get(first)

    def get(self, name: str = "") -> RestorationPipeline:
        """Return a model's pipeline, loaded once; where memory is short, free the others first.

        Args:
            name: key of :attr:`headers`; any other, as other clients than the page may send, is the first model.

        Raises:
            AMDRestoreError: as ``load``.
        """
        name = name if name in self._paths else self.first
        if name not in self._loaded:
            source = AUTO if name == AUTO else self._paths[name]
            if _ROOM * sum(file.stat().st_size for file in files_of(source)) > memory.free_share(None):
                self._loaded.clear()
            self._loaded[name] = self._load(source)
        return self._loaded[name]
