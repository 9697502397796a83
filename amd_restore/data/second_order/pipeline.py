"""Second-order degradation as one module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from amd_restore.data.base import Degradation, to_8bit
from amd_restore.data.second_order.jpeg import jpeg
from amd_restore.data.second_order.kernels import build_kernels
from amd_restore.data.second_order.operations import add_gaussian, add_poisson, blur, downscale, resize
from amd_restore.data.second_order.parameters import (
    NUMBERS_PER_IMAGE,
    ImageParameters,
    KernelParameters,
    NoiseParameters,
    OrderParameters,
    draw_image,
)
from amd_restore.options.blocks import DegradationOptions

STREAM = 1  # separates these random numbers from others with equal seeds


class SecondOrderDegradation(Degradation):
    """Real-ESRGAN's degradation: blur, resize, noise and JPEG, twice, and a final sinc filter.

    Every image has its own parameters; with ``share`` a few images in a row have equal intermediate sizes (as a whole
    batch in the published training), which lets a GPU process them together. All randomness comes from ``generator`` on
    the CPU, so parameters are the same on every device; noise fields are drawn on the image's device from seeds among
    the parameters. Unsharp masking of the targets in the published training is not part of the degradation.

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
        self._drawn = 0  # images since the seed
        self._first: ImageParameters | None = None  # of the latest that share their structure

    def reseed(self, seed: int, before: int = 0) -> None:
        """Make the next batch a function of ``seed`` (at least 0), after ``before`` images of that seed."""
        self.generator.manual_seed(int(np.random.SeedSequence((seed, STREAM)).generate_state(1)[0]))
        self._drawn, self._first = before, None
        place = before % self.options.share
        self._uniform(before - place)
        if place:
            self._first = draw_image(self._uniform(place)[0], self.options)

    def draw(self, count: int) -> list[ImageParameters]:
        """Draw the parameters of the next ``count`` images; ``share`` in a row have the same structure."""
        drawn = []
        for row in self._uniform(count):
            is_first = self._drawn % self.options.share == 0
            drawn.append(draw_image(row, self.options, None if is_first else self._first))
            self._first = drawn[-1] if is_first else self._first
            self._drawn += 1
        return drawn

    def _uniform(self, count: int) -> list[list[float]]:
        """Draw a row of uniform numbers for each of ``count`` images."""
        numbers: list[list[float]] = torch.rand(
            count, NUMBERS_PER_IMAGE, generator=self.generator, dtype=torch.float64
        ).tolist()
        return numbers

    def forward(self, gt: Tensor) -> Tensor:
        """Degrade (B, 3, H, W) in [0, 1], sides multiples of ``scale``, to (B, 3, H / scale, W / scale) in [0, 1].

        Computes in float32, or float64 if ``gt`` is: slower, but the order of sums does not change the 8-bit result.
        """
        return self.apply_parameters(gt, self.draw(len(gt)))

    @torch.no_grad()
    def apply_parameters(self, gt: Tensor, parameters: Sequence[ImageParameters]) -> Tensor:
        """:meth:`forward` with given parameters, one per image; an image's result depends on nothing else.

        On a GPU neighbours with the same structure are one batch, which can change the last bits.
        """
        gt = gt if gt.dtype == torch.float64 else gt.float()
        lq = torch.cat([self.degrade_alike(gt[rows], parameters[rows]) for rows in self._batches(gt, parameters)])
        lq = compress(lq, [p.second.jpeg if p.jpeg_last and not p.clean else None for p in parameters])
        return to_8bit(lq) if self.options.quantize else lq.clamp(0, 1)

    @staticmethod
    def _batches(gt: Tensor, parameters: Sequence[ImageParameters]) -> Iterator[slice]:
        """Return the slices of images that are degraded together."""
        start = 0
        for end in range(1, len(parameters) + 1):
            is_last = end == len(parameters) or gt.device.type == "cpu"
            if is_last or parameters[end].structure != parameters[start].structure:
                yield slice(start, end)
                start = end

    def degrade_alike(self, image: Tensor, parameters: Sequence[ImageParameters]) -> Tensor:
        """Degrade images of the same structure up to the last JPEG.

        Args:
            image: (B, 3, H, W) in [0, 1].
            parameters: one for each image.
        """
        p, target = parameters[0], (image.shape[2] // self.scale, image.shape[3] // self.scale)
        if p.clean:
            return downscale(image, target)
        if p.light:
            image = blur_each(image, [p.second.blur for p in parameters])
            image = resize(image, target, "area") if p.mode == "area" else downscale(image, target)
            return add_noises(image, [p.second.noise for p in parameters])
        if not p.skip_first:
            image = degrade_once(image, [p.first for p in parameters], tuple(image.shape[2:]))
        second = [replace(p.second, jpeg=None) if p.jpeg_last else p.second for p in parameters]
        image = resize(degrade_once(image, second, target), target, p.mode)
        return blur_each(image, [p.sinc for p in parameters])


def degrade_once(image: Tensor, parameters: Sequence[OrderParameters], base: tuple[int, ...]) -> Tensor:
    """Apply blur, resize to ``resize`` times ``base``, noise and JPEG to images (B, 3, H, W) of one size and mode."""
    image = blur_each(image, [p.blur for p in parameters])
    height, width = (max(1, int(side * parameters[0].resize)) for side in base)
    image = resize(image, (height, width), parameters[0].mode)
    image = add_noises(image, [p.noise for p in parameters])
    return compress(image, [p.jpeg for p in parameters])


def blur_each(image: Tensor, kernels: Sequence[KernelParameters | None]) -> Tensor:
    """Blur each image (B, 3, H, W) by its kernel, if it has one."""
    rows = [n for n, kernel in enumerate(kernels) if kernel is not None]
    built = build_kernels([kernel for kernel in kernels if kernel is not None])
    side = max((len(kernel) for kernel in built), default=0)
    same = [F.pad(kernel, ((side - len(kernel)) // 2,) * 4) for kernel in built]
    return _in_rows(image, rows, lambda part: blur(part, torch.stack(same).to(part.device, non_blocking=True)))


def add_noises(image: Tensor, noises: Sequence[NoiseParameters | None]) -> Tensor:
    """Add noise to each image (B, 3, H, W), if it has one."""
    parts = [part if p is None else add_noise(part, p) for part, p in zip(image.split(1), noises, strict=True)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def compress(image: Tensor, qualities: Sequence[int | None]) -> Tensor:
    """Apply JPEG to each image (B, 3, H, W), if it has a quality."""
    rows = [n for n, quality in enumerate(qualities) if quality is not None]
    return _in_rows(image, rows, lambda part: jpeg(part, [quality for quality in qualities if quality is not None]))


def _in_rows(image: Tensor, rows: list[int], operation: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``image`` (B, ...) with ``operation`` done to some rows."""
    if not rows:
        return image
    if len(rows) == len(image):
        return operation(image)
    changed = image.clone()
    changed[rows] = operation(image[rows])
    return changed


def add_noise(image: Tensor, p: NoiseParameters) -> Tensor:
    """Add noise to one image (1, 3, H, W), from its own seed."""
    generator = torch.Generator(image.device).manual_seed(p.seed)
    add = add_gaussian if p.kind == "gaussian" else add_poisson
    return add(image, p.strength, p.gray, generator)
