"""Restoration as a diffusers pipeline.

pipe = AMDRestorePipeline.from_amd_restore()              # the weights in the package
image = pipe(Image.open("small.png").convert("RGB"), seed=0).images[0]
pipe.save_pretrained("folder"); AMDRestorePipeline.from_pretrained("folder")
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from amd_restore.diffusion import Denoiser, Draw, cell_sized, field_noise, restore_latent
from amd_restore.errors import AMDRestoreError
from amd_restore.inference.call_options import whole_number
from amd_restore.inference.flaws import check_restored
from amd_restore.integrations.diffusers_images import ImageInput, to_batch
from amd_restore.integrations.diffusers_network import AMDRestoreNetwork
from amd_restore.integrations.diffusers_scheduler import AMDRestoreScheduler
from amd_restore.weights import (
    DEFAULT_MODEL,
    Header,
    build_header_codec,
    load_checkpoint,
    resolve_weights,
    save_checkpoint,
)

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
Generators = torch.Generator | list[torch.Generator] | None
StepCallback = Callable[["AMDRestorePipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]


class AMDRestorePipeline(DiffusionPipeline):
    """Restoration of images with diffusers' interface.

    For gray, alpha, 16 bits, files and very large images use :class:`~amd_restore.pipeline.RestorationPipeline`.

    Args:
        network: network with its header, which also describes the codec.
        scheduler: scheduler of the steps.
    """

    network: AMDRestoreNetwork
    scheduler: AMDRestoreScheduler
    model_cpu_offload_seq = "network"  # type: ignore[assignment]  # declared as None
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012  # diffusers' way

    def __init__(self, network: AMDRestoreNetwork, scheduler: AMDRestoreScheduler) -> None:
        super().__init__()
        self.register_modules(network=network, scheduler=scheduler)
        header = network.header
        if header.bases:
            raise AMDRestoreError(f"{header.name}: latents of an autoencoder need amd_restore.RestorationPipeline")
        self.codec = build_header_codec(header)

    @classmethod
    def from_amd_restore(cls, name_or_path: str | Path = DEFAULT_MODEL) -> AMDRestorePipeline:
        """Load weights of this package: a released name, a ``.safetensors`` file, or a folder with exactly one.

        Raises:
            AMDRestoreError: no such weights, or a damaged file.
        """
        header, state_dict = load_checkpoint(resolve_weights(name_or_path))
        network = AMDRestoreNetwork(header=_to_table(header))
        network.net.load_state_dict(state_dict)
        return cls(network.eval(), AMDRestoreScheduler.from_header(header))

    def to_amd_restore(self, path: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Inverse of :meth:`from_amd_restore`: write a ``.safetensors`` file.

        Process, sampler and time shift are those of the current scheduler.

        Raises:
            AMDRestoreError: as :func:`~amd_restore.weights.save_checkpoint`.
        """
        config = self.scheduler.config
        header = dataclasses.replace(
            self.network.header,
            process=self.scheduler.process.config(),
            prediction_type=config["prediction_type"],
            sampler=config["sampler"],
            time_shift=config["time_shift"],
        )
        save_checkpoint(path, self.network.net.state_dict(), header, dtype)

    @property
    def scale(self) -> int:
        """Return the output pixels per input pixel along each axis."""
        return self.codec.scale

    def enable_tiling(self, tile_size: int = 512) -> None:
        """Evaluate the network in windows of ``tile_size`` lq pixels; exact, see ``AMDRestoreNetwork``."""
        self.network.enable_tiling(max(tile_size // self.codec.lq_patch, 1))

    def disable_tiling(self) -> None:
        """Evaluate whole images again."""
        self.network.disable_tiling()

    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        num_inference_steps: int | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        seed: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Restore one image or a batch of one size.

        Noise comes from ``generator`` as in every diffusers pipeline: one for the batch, one for each image, or torch's
        global one. ``seed`` is specific to this package: image i equals the result of
        ``RestorationPipeline(lq, seed=seed + i)`` without tiles; a generator with the same seed draws other noise.

        Args:
            image: see :func:`~amd_restore.integrations.diffusers_images.to_batch`.
            num_inference_steps: None for the model's default.
            generator: source of the noise.
            latents: noise of the first step, standard normal, (B, C, h, w) of the padded image.
            seed: seed of the noise; excludes the two above.
            output_type: ``pil``; ``np``, (B, H, W, 3) float32; ``pt``, (B, 3, H, W) float32; ``latent``, the clean
                latent of the padded image.
            return_dict: False to return a tuple.
            callback_on_step_end: called as ``(pipe, step, timestep, tensors)``; ``latents`` in the returned table
                replace the current ones.
            callback_on_step_end_tensor_inputs: names of the callback's tensors.

        Returns:
            An output whose ``images`` are a list of PIL images, an array or a tensor, in [0, 1].

        Raises:
            AMDRestoreError: an argument out of range, or a result that is black or not finite.
        """
        lq = to_batch(image)
        self._check(lq, output_type, generator, latents, seed, callback_on_step_end_tensor_inputs)
        device = self._execution_device
        padded = cell_sized(lq.to(device), self.codec.lq_patch)
        shape = self.codec.latent_shape(padded)
        if latents is not None and tuple(latents.shape) != shape:
            raise AMDRestoreError(f"latents: shape {shape} is needed, not {tuple(latents.shape)}")

        def draw(step: int) -> Tensor:
            if step == 0 and latents is not None:
                return latents.to(device, torch.float32)
            if seed is None:
                return randn_tensor(shape, generator, device, torch.float32)
            return field_noise(range(seed, seed + shape[0]), shape[1], 0, 0, *shape[2:], step).to(device)

        def sample(denoiser: Denoiser, x_t: Tensor, cond: Tensor, times: Tensor, draw: Draw) -> Tensor:
            # This loop replaces the recipe's sampler, to support hooks of the network, other schedulers and callbacks.
            self.scheduler.set_timesteps(len(times) - 1, device)
            for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
                scaled = self.scheduler.scale_model_input(x_t, t)
                output = self.network(scaled, self.scheduler.process.network_time(t), cond).sample
                fresh = draw(i + 1) if i + 2 < len(times) and self.scheduler.config["sampler"] == "renoise" else None
                x_t, _ = self.scheduler.step(output, t, x_t, variance_noise=fresh, return_dict=False)
                if callback_on_step_end is not None:
                    wanted = {name: x_t for name in callback_on_step_end_tensor_inputs}
                    x_t = (callback_on_step_end(self, i, t, wanted) or {}).get("latents", x_t)
            return x_t

        denoiser = Denoiser(self.network, self.scheduler.process, self.scheduler.config["prediction_type"])
        steps = None if num_inference_steps is None else whole_number("num_inference_steps", num_inference_steps)
        recipe = self.network.header.recipe(steps)
        clean = restore_latent(denoiser, self.codec, padded, draw, recipe, sample)
        if output_type == "latent":
            images: Any = clean
        else:
            images = self._decode(clean, padded, lq, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _decode(self, latents: Tensor, padded: Tensor, lq: Tensor, output_type: str) -> Any:
        height, width = (side * self.scale for side in lq.shape[2:])
        sr = self.codec.decode(latents, padded)[..., :height, :width]
        check_restored(sr, lq)
        sr = sr.clamp(0, 1)
        if output_type == "pt":
            return sr
        array = sr.permute(0, 2, 3, 1).cpu().numpy()
        return array if output_type == "np" else self.numpy_to_pil(array)

    def _check(
        self,
        lq: Tensor,
        output_type: str,
        generator: Generators,
        latents: Tensor | None,
        seed: int | None,
        tensor_inputs: Sequence[str],
    ) -> None:
        if output_type not in OUTPUT_TYPES:
            raise AMDRestoreError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, not {output_type!r}")
        if seed is not None:
            whole_number("seed", seed)
        several = generator if isinstance(generator, list) else [generator]
        if generator is not None and not all(isinstance(one, torch.Generator) for one in several):
            raise AMDRestoreError(f"generator must be a torch.Generator or a list of them, not {generator!r}")
        if latents is not None and not isinstance(latents, Tensor):
            raise AMDRestoreError(f"latents must be a tensor, not {type(latents).__name__}")
        if seed is not None and (generator is not None or latents is not None):
            raise AMDRestoreError("seed already names the noise; leave out generator and latents, or seed")
        if isinstance(generator, list) and len(generator) != len(lq):
            raise AMDRestoreError(f"generator: a list of {len(generator)} for a batch of {len(lq)}; pass one for each")
        unknown = sorted(set(tensor_inputs) - set(self._callback_tensor_inputs))
        if unknown:
            raise AMDRestoreError(f"callback_on_step_end_tensor_inputs: no {', '.join(unknown)}; there is: latents")


def _to_table(header: Header) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(header.to_json())
    return table
