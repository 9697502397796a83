"""Models that the page offers, loaded when first used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from amd_restore.inference import memory
from amd_restore.pipeline import RestorationPipeline
from amd_restore.weights import Header, read_header, released_models, resolve_weights

# Bytes of free memory per byte of a weights file, below which the loaded models are freed before another is loaded.
_ROOM = 50


class Models:
    """The model of ``--model`` and the released ones.

    Args:
        chosen: released name, file or folder of the first model, which is loaded at once.
        load: loads a weights file.

    Attributes:
        headers: headers by the name that the page shows; the chosen model is the first.

    Raises:
        AMDRestoreError: no such weights, or as ``load``.
    """

    def __init__(self, chosen: str | Path, load: Callable[[Path], RestorationPipeline]) -> None:
        released, path, self._load = released_models(), resolve_weights(chosen), load
        first = next((name for name, other in released.items() if other.samefile(path)), "")
        if not first:
            first = read_header(path).name
            if first in released:
                first = f"{first} ({path.name})"
        self._paths = {first: path} | {name: other for name, other in released.items() if name != first}
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
            if _ROOM * self._paths[name].stat().st_size > memory.free_share(None):
                self._loaded.clear()
            self._loaded[name] = self._load(self._paths[name])
        return self._loaded[name]
