"""Second-order degradation as one module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from amd_restore.data.base import Degradation, to_8bit
from amd_restore.data.second_order.jpeg import jpeg
from amd_restore.data.second_order.kernels import build_kernels
from amd_restore.data.second_order.operations import add_gaussian, add_poisson, blur, downscale, resize
from amd_restore.data.second_order.parameters import (
    NUMBERS_PER_IMAGE,
    ImageParameters,
    NoiseParameters,
    OrderParameters,
    draw_image,
)
from amd_restore.options.blocks import DegradationOptions

STREAM = 1  # separates these random numbers from others with equal seeds


class SecondOrderDegradation(Degradation):
    """Real-ESRGAN's degradation: blur, resize, noise and JPEG, twice, and a final sinc filter.

    Every image has its own parameters, including intermediate sizes (which the published training shares in a batch),
    so images are processed one by one up to the final size. All randomness comes from ``generator`` on the CPU, so
    parameters are the same on every device; noise fields are drawn on the image's device from seeds among the
    parameters. Unsharp masking of the targets in the published training is not part of the degradation.

    Args:
        scale: integer factor between clean and low-quality side, at least 1.
        options: probabilities and ranges; the published ones by default.

    Attributes:
        generator: source of all randomness; its state determines the next batch.
    """

    def __init__(self, scale: int, options: DegradationOptions | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.options = options or DegradationOptions(type="second_order")
        self.generator = torch.Generator()

    def reseed(self, seed: int, before: int = 0) -> None:
        """Make the next batch a function of ``seed`` (at least 0), after ``before`` images of that seed."""
        self.generator.manual_seed(int(np.random.SeedSequence((seed, STREAM)).generate_state(1)[0]))
        if before:
            self.draw(before)

    def draw(self, count: int) -> list[ImageParameters]:
        """Draw the parameters of the next ``count`` images."""
        numbers = torch.rand(count, NUMBERS_PER_IMAGE, generator=self.generator, dtype=torch.float64)
        return [draw_image(row, self.options) for row in numbers.tolist()]

    def forward(self, gt: Tensor) -> Tensor:
        """Degrade (B, 3, H, W) in [0, 1], sides multiples of ``scale``, to (B, 3, H / scale, W / scale) in [0, 1].

        Computes in float32, or float64 if ``gt`` is: slower, but the order of sums does not change the 8-bit result.
        """
        return self.apply_parameters(gt, self.draw(len(gt)))

    @torch.no_grad()
    def apply_parameters(self, gt: Tensor, parameters: Sequence[ImageParameters]) -> Tensor:
        """:meth:`forward` with given parameters, one per image; an image's result depends on nothing else."""
        target = (gt.shape[2] // self.scale, gt.shape[3] // self.scale)
        kernels = self._kernels(parameters, gt.device)
        results = []
        for number, p in enumerate(parameters):
            image = gt[number : number + 1]
            image = image if image.dtype == torch.float64 else image.float()
            if p.clean:
                results.append(downscale(image, target))
                continue
            if p.light:
                results.append(self._light_round(image, p, target, kernels[number][1]))
                continue
            if not p.skip_first:
                image = self._round(image, p.first, tuple(image.shape[2:]), kernels[number][0])
            second = replace(p.second, jpeg=None) if p.jpeg_last else p.second
            image = self._round(image, second, target, kernels[number][1])
            image = resize(image, target, p.mode)
            sinc = kernels[number][2]
            results.append(image if sinc is None else blur(image, sinc))
        lq = torch.cat(results)
        last = [n for n, p in enumerate(parameters) if p.jpeg_last and p.second.jpeg is not None and not p.clean]
        if last:
            lq[last] = jpeg(lq[last], [parameters[n].second.jpeg or 0 for n in last])
        return to_8bit(lq) if self.options.quantize else lq.clamp(0, 1)

    @staticmethod
    def _kernels(parameters: Sequence[ImageParameters], device: torch.device) -> list[list[Tensor | None]]:
        """Build first, second and final kernel of every image."""
        wanted = [kernel for p in parameters for kernel in (p.first.blur, p.second.blur, p.sinc)]
        built = iter(build_kernels([kernel for kernel in wanted if kernel is not None]))
        found = [None if kernel is None else next(built).to(device, non_blocking=True) for kernel in wanted]
        return [found[i : i + 3] for i in range(0, len(found), 3)]

    @staticmethod
    def _light_round(image: Tensor, p: ImageParameters, target: tuple[int, int], kernel: Tensor | None) -> Tensor:
        """Apply blur, antialiased scaling and noise to one image (1, 3, H, W); JPEG follows for the batch."""
        if kernel is not None:
            image = blur(image, kernel)
        image = resize(image, target, "area") if p.mode == "area" else downscale(image, target)
        return image if p.second.noise is None else add_noise(image, p.second.noise)

    @staticmethod
    def _round(image: Tensor, p: OrderParameters, base: tuple[int, ...], kernel: Tensor | None) -> Tensor:
        """Apply blur, resize to ``p.resize`` times ``base``, noise and JPEG to one image (1, 3, H, W)."""
        if kernel is not None:
            image = blur(image, kernel)
        height, width = (max(1, int(side * p.resize)) for side in base)
        image = resize(image, (height, width), p.mode)
        if p.noise is not None:
            image = add_noise(image, p.noise)
        return image if p.jpeg is None else jpeg(image, p.jpeg)


def add_noise(image: Tensor, p: NoiseParameters) -> Tensor:
    """Add noise to one image (1, 3, H, W), from its own seed."""
    generator = torch.Generator(image.device).manual_seed(p.seed)
    add = add_gaussian if p.kind == "gaussian" else add_poisson
    return add(image, p.strength, p.gray, generator)
