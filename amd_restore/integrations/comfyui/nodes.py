"""The nodes, in ComfyUI's interface: declared inputs and outputs, images (B, H, W, C) float32 in [0, 1].

ComfyUI checks types and ranges of the inputs by ``INPUT_TYPES``, and then calls the method ``FUNCTION`` with them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amd_restore.errors import AMDRestoreError
from amd_restore.pipeline import AUTO, RestorationPipeline, load_pipeline, suited
from amd_restore.postprocess.uncertainty import FULL_SCALE, SampleStatistics, expected_error
from amd_restore.weights import released_models

try:
    import folder_paths
    from comfy import model_management
    from comfy.utils import ProgressBar
except ModuleNotFoundError as error:
    if error.name not in ("comfy", "folder_paths"):
        raise
    raise AMDRestoreError(
        "these nodes run inside ComfyUI only; put a folder with an __init__.py that imports them into its custom_nodes"
    ) from error

CATEGORY = "image/upscaling"
MODEL = "AMD_RESTORE_MODEL"  # type of the link between our nodes: a RestorationPipeline
MODEL_FOLDER = "amd_restore"  # in ComfyUI's folder models: weights files of users
DTYPES = ("auto", "fp32", "bf16")
LARGEST_SEED = 2**64 - 1  # as in ComfyUI's samplers

folder_paths.add_model_folder_path(MODEL_FOLDER, str(Path(folder_paths.models_dir) / MODEL_FOLDER))

_MODEL = "auto takes for each image the x4 model that suits it; for the frames of a video choose one."
_STEPS = {"default": 0, "min": 0, "max": 64, "tooltip": "Network evaluations; 0 takes the model's default."}
_SEED = {
    "default": 0,
    "min": 0,
    "max": LARGEST_SEED,
    "control_after_generate": True,
    "tooltip": "Names the noise; image i of a batch gets that of seed + i.",
}
_TILE = {
    "default": 0,
    "min": 0,
    "max": 4096,
    "step": 8,
    "tooltip": "Largest side of a tile in input pixels; 0 chooses it by size and memory. Tiles leave no seams.",
}
_FIDELITY = {
    "default": 0.0,
    "min": 0.0,
    "max": 1.0,
    "step": 0.05,
    "tooltip": "0: all detail. 1: the mean of all plausible images, closest to the truth in pixels, but smooth.",
}
_SAMPLES = {"default": 8, "min": 2, "max": 64, "tooltip": "Samples of each image that are compared."}
_INPUTS: dict[str, tuple[Any, ...]] = {
    "model": (MODEL,),
    "image": ("IMAGE",),
    "samples": ("INT", _SAMPLES),
    "steps": ("INT", _STEPS),
    "seed": ("INT", _SEED),
    "fidelity": ("FLOAT", _FIDELITY),
    "tile": ("INT", _TILE),
}


def _required(*names: str) -> dict[str, Any]:
    """Return the declaration of these inputs, in this order."""
    return {"required": {name: _INPUTS[name] for name in names}}


class LoadModel:
    """Load a released model, or a weights file in ComfyUI's folder ``models/amd_restore``, onto ComfyUI's device."""

    CATEGORY = "loaders"
    FUNCTION = "load"
    RETURN_TYPES = (MODEL,)
    RETURN_NAMES = ("model",)
    DESCRIPTION = "Loads a model of AMD-Restore: a released one, or a .safetensors file in models/amd_restore."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 (ComfyUI's name)
        released = sorted(name for name in released_models() if not name.endswith("-teacher"))
        own = [name for name in folder_paths.get_filename_list(MODEL_FOLDER) if name.endswith(".safetensors")]
        return {
            "required": {
                "model": ([AUTO, *released, *own], {"default": AUTO, "tooltip": _MODEL}),
                "dtype": (
                    list(DTYPES),
                    {"default": "auto", "tooltip": "Arithmetic; auto is bf16 where the hardware has it."},
                ),
            }
        }

    def load(self, model: str, dtype: str) -> tuple[RestorationPipeline]:
        """Return the pipeline of ``auto``, of a released name, or of a file in the folder of models.

        Raises:
            AMDRestoreError: a damaged file, or a device that computes wrong images.
        """
        named = model in (AUTO, *released_models())
        path = model if named else folder_paths.get_full_path_or_raise(MODEL_FOLDER, model)
        return (load_pipeline(path, model_management.get_torch_device(), dtype),)


class RestoreImage:
    """Restore a batch of images."""

    CATEGORY = CATEGORY
    FUNCTION = "restore"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    DESCRIPTION = "Restores images in one to four steps; the size grows by the factor of the model."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 (ComfyUI's name)
        return _required("model", "image", "steps", "seed", "fidelity", "tile")

    def restore(
        self, model: RestorationPipeline, image: Tensor, steps: int, seed: int, fidelity: float, tile: int
    ) -> tuple[Tensor]:
        """Return the restored images (B, scale H, scale W, 3), float32 in [0, 1] on the CPU.

        Args:
            model: of :class:`LoadModel`.
            image: (B, H, W, C), C 1 or 3.
            steps: 0 takes the model's default.
            seed: that of the first image.
            fidelity: 0 to 1.
            tile: 0 is chosen.

        Raises:
            AMDRestoreError: an image with alpha, or too little memory.
        """
        lq = as_batch(image)
        sr = model(
            lq,
            num_steps=steps or None,
            seed=seed,
            fidelity=fidelity,
            tile=tile or None,
            progress=progress_of(1, 0),
        )
        return (as_images(sr),)


class RestoreWithUncertainty:
    """Restore a batch of images, each in several samples, with a mask of where they disagree."""

    CATEGORY = CATEGORY
    FUNCTION = "restore"
    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("image", "uncertainty")
    DESCRIPTION = (
        "Restores images and shows where not to trust them: the mask is the error to expect at each pixel, "
        f"white from {FULL_SCALE} of the range of values on."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 (ComfyUI's name)
        return _required("model", "image", "samples", "steps", "seed", "tile")

    def restore(
        self, model: RestorationPipeline, image: Tensor, samples: int, steps: int, seed: int, tile: int
    ) -> tuple[Tensor, Tensor]:
        """Return the samples of ``seed`` as :class:`RestoreImage` does at fidelity 0, and masks (B, H', W') in [0, 1].

        Errors and other arguments as :meth:`RestoreImage.restore`.

        Args:
            samples: at least 2, of consecutive seeds; those of image i begin at ``seed + i``.
        """
        lq, statistics = as_batch(image), SampleStatistics()

        def sample(number: int) -> Tensor:
            progress = progress_of(samples, number)
            return model(lq, num_steps=steps or None, seed=seed + number, tile=tile or None, progress=progress)

        first = sample(0)
        statistics.add(first)
        for number in range(1, samples):
            statistics.add(sample(number))
        headers = [suited(model, pixels).header for pixels in as_images(lq).numpy()]
        errors = [
            expected_error(std[None], header.error_per_std) for std, header in zip(statistics.std, headers, strict=True)
        ]
        mask = (torch.cat(errors) / FULL_SCALE).clamp(0, 1)
        return as_images(first), mask[:, 0].float().cpu()


def as_batch(image: Tensor) -> Tensor:
    """Convert ComfyUI's images (B, H, W, C) to (B, 3, H, W) in [0, 1]; one channel is repeated.

    Raises:
        AMDRestoreError: other numbers of channels.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3):
        raise AMDRestoreError(
            f"images need 3 channels (or 1), got shape {tuple(image.shape)}; "
            "'Split Image with Alpha' separates a transparency"
        )
    return image.movedim(-1, 1).expand(-1, 3, -1, -1).float().clamp(0, 1)


def as_images(batch: Tensor) -> Tensor:
    """Convert (B, 3, H, W) to ComfyUI's images on the CPU."""
    return batch.movedim(1, -1).float().cpu().contiguous()


def progress_of(passes: int, number: int) -> Callable[[int, int], None]:
    """Return a function for the pipeline's ``progress`` that moves ComfyUI's bar and heeds its button to stop."""
    bar = ProgressBar(passes)

    def report(done: int, total: int) -> None:
        model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(number * total + done, passes * total)

    return report
