"""Models of which each image gets the one that suits it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amd_restore.arrays import Array, HostArray, floats, host, no_grad, take, zeros
from amd_restore.errors import AMDRestoreError
from amd_restore.inference.call_options import CallOptions, Seeds, check_image, seeds_of
from amd_restore.inference.damage import ESTIMATOR, DamageEstimator
from amd_restore.inference.planes import Planes
from amd_restore.pipeline.restoration import RestorationPipeline
from amd_restore.weights import DEFAULT_MODEL, resolve_weights

AUTO = "auto"  # in place of a model's name
AUTO_MODELS = {"heavy": DEFAULT_MODEL, "light": "x4-web", "clean": "x4-classical"}  # by severity of the damage


class AutomaticPipeline(RestorationPipeline):
    """Models for images of different damage, of which each image gets one.

    An image is judged as a whole, by :class:`~amd_restore.inference.damage.DamageEstimator`, whatever its tiles.

    Args:
        models: for each of :data:`~amd_restore.inference.damage.SEVERITIES`, all of one scale, device and arithmetic;
            header and codec are those of ``heavy``. They share the means that they load.
    """

    def __init__(self, models: Mapping[str, RestorationPipeline]) -> None:
        self.models, first = dict(models), models["heavy"]
        self.header, self.codec, self.restorer = first.header, first.codec, first.restorer
        self._damage = DamageEstimator.load()
        self.restorer.resident = max(model.restorer.resident for model in models.values())
        self._loading, self._means = first._loading, {}
        for model in models.values():
            self._means |= model._means
            model._means = self._means

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = AUTO, *arguments: Any, **options: Any) -> AutomaticPipeline:
        """Load the models of ``auto``; arguments but the name as for :meth:`RestorationPipeline.from_pretrained`.

        Raises:
            AMDRestoreError: another name than ``auto``, or as there.
        """
        if name_or_path != AUTO:
            raise AMDRestoreError(f"AutomaticPipeline is named '{AUTO}', not {name_or_path}; see RestorationPipeline")
        load = RestorationPipeline.from_pretrained
        return cls({severity: load(name, *arguments, **options) for severity, name in AUTO_MODELS.items()})

    def for_image(self, image: HostArray) -> RestorationPipeline:
        """Return the pipeline of the model that suits ``image``; what is no image is left to one to refuse.

        Args:
            image: as for :meth:`RestorationPipeline.restore_image`.
        """
        try:
            planes = Planes(image, lq_patch=1)  # what is transparent has the colours that are restored
        except AMDRestoreError:
            return self.models["heavy"]
        visible = planes.colour if planes.alpha is None else np.dstack([planes.colour, planes.alpha])
        chosen = self.models[self._damage.severity(visible)]
        chosen.restorer.resident = self.restorer.resident
        return chosen

    @no_grad
    def __call__(self, lq: Array, *, seed: Seeds = 0, **options: Any) -> Array:
        """Restore a batch of images, each by the model that suits it; otherwise as the base class."""
        check_image(lq)
        CallOptions(seed=seed, **options)  # Refuses what is out of its range.
        seeds = seeds_of(seed, len(lq))
        chosen = [self.for_image(image.transpose(1, 2, 0)) for image in host(floats(lq))]
        needed = list(dict.fromkeys(chosen))
        if len(needed) == 1:
            return needed[0](lq, seed=seeds, **options)
        height, width = (side * self.scale for side in lq.shape[2:])
        sr = zeros((len(lq), 3, height, width), floats(lq[:1]))
        if options.get("max_memory") is not None:
            options["max_memory"] = max(options["max_memory"] - 12 * len(lq) * height * width, 1)
        progress = options.pop("progress", None)
        for part, model in enumerate(needed):

            def advance(done: int, total: int, part: int = part) -> None:
                if progress is not None:
                    progress(part * total + done, len(needed) * total)

            rows = np.array([row for row, other in enumerate(chosen) if other is model])
            sr[rows] = model(take(lq, rows, 0), seed=[seeds[row] for row in rows], progress=advance, **options)
        return sr

    def _image_rows(
        self, image: HostArray, streamed: bool, options: dict[str, Any]
    ) -> tuple[Iterator[HostArray], tuple[int, int, int]]:
        return self.for_image(image)._image_rows(image, streamed, options)


def files_of(name_or_path: str | Path) -> list[Path]:
    """Return the files that determine what :func:`load_pipeline` restores; those of weights come first.

    Raises:
        AMDRestoreError: as :func:`~amd_restore.weights.resolve_weights`.
    """
    if name_or_path != AUTO:
        return [resolve_weights(name_or_path)]
    return [*map(resolve_weights, AUTO_MODELS.values()), ESTIMATOR]


def load_pipeline(name_or_path: str | Path = AUTO, *arguments: Any, **options: Any) -> RestorationPipeline:
    """Load the models of ``auto``, or one; arguments and errors of :meth:`RestorationPipeline.from_pretrained`."""
    kind = AutomaticPipeline if name_or_path == AUTO else RestorationPipeline
    return kind.from_pretrained(name_or_path, *arguments, **options)


def suited(pipeline: RestorationPipeline, image: HostArray) -> RestorationPipeline:
    """Return the pipeline by which ``pipeline`` restores ``image``: itself, unless it chooses."""
    return pipeline.for_image(image) if isinstance(pipeline, AutomaticPipeline) else pipeline
