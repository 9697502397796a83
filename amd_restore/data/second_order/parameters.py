"""Random parameters of the second-order degradation, drawn for each image from a row of uniform numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from amd_restore.options.blocks import DegradationOptions, FirstOrderOptions

T = TypeVar("T")

FAMILIES = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
RESIZE_MODES = ("area", "bilinear", "bicubic")
NUMBERS_PER_IMAGE = 64  # uniform numbers in a row; an image uses up to 45


@dataclass(frozen=True)
class KernelParameters:
    """A blur kernel of side ``2 * radius + 1``.

    Attributes:
        family: one of :data:`FAMILIES`, or ``sinc``.
        sigma_x: standard deviation along the first principal axis, pixels; unused by ``sinc``.
        sigma_y: standard deviation along the second.
        angle: angle between the first principal axis and the x axis, radians.
        beta: shape of generalised and plateau kernels; 1 otherwise.
        cutoff: angular frequency of ``sinc``, radians per pixel.
    """

    family: str
    radius: int
    sigma_x: float = 1.0
    sigma_y: float = 1.0
    angle: float = 0.0
    beta: float = 1.0
    cutoff: float = math.pi


@dataclass(frozen=True)
class NoiseParameters:
    """Additive noise.

    Attributes:
        kind: ``gaussian`` or ``poisson``.
        strength: standard deviation of Gaussian noise in units of 1/255; factor on Poisson noise.
        gray: the same noise in all three channels.
        seed: seed of the noise field, below 2^32 (torch's CPU generator uses 32 bits).
    """

    kind: str
    strength: float
    gray: bool
    seed: int


@dataclass(frozen=True)
class OrderParameters:
    """Parameters of one of the two rounds; a skipped stage is None, or a ``resize`` of 1.

    Attributes:
        resize: factor, relative to the clean size (first round) or to the target size (second round).
        mode: one of :data:`RESIZE_MODES`.
        jpeg: JPEG quality, 1 to 100.
    """

    blur: KernelParameters | None
    resize: float
    mode: str
    noise: NoiseParameters | None
    jpeg: int | None


@dataclass(frozen=True)
class ImageParameters:
    """Parameters of one image.

    Attributes:
        sinc: final sinc filter.
        jpeg_last: apply the second JPEG after the final resize and sinc filter instead of before.
        mode: mode of the final resize.
        skip_first: skip the first round.
        clean: bicubic downscaling only; all else is ignored.
        light: a mild ``second`` only: blur, antialiased downscaling, noise, JPEG.
    """

    first: OrderParameters
    second: OrderParameters
    sinc: KernelParameters | None
    jpeg_last: bool
    mode: str
    skip_first: bool = False
    clean: bool = False
    light: bool = False

    @property
    def structure(self) -> tuple[object, ...]:
        """Return what decides on the sizes and the order of the operations; images with the same can be one batch."""
        rounds = [(p.resize, p.mode) for p in (self.first, self.second)]
        return (*rounds, self.mode, self.jpeg_last, self.skip_first, self.clean, self.light)


class Draws:
    """Random decisions from given uniform numbers in [0, 1)."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self.numbers: Iterator[float] = iter(numbers)

    def uniform(self, bounds: Sequence[float]) -> float:
        """Return a number between the two bounds."""
        low, high = bounds
        return low + (high - low) * next(self.numbers)

    def integer(self, bounds: Sequence[int]) -> int:
        """Return a whole number, both bounds included."""
        low, high = bounds
        return low + int((high - low + 1) * next(self.numbers))

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return next(self.numbers) < probability

    def choice(self, things: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """Return one of ``things``; ``weights`` need not sum to 1."""
        weights = weights or [1.0] * len(things)
        rest = next(self.numbers) * sum(weights)
        for thing, weight in zip(things, weights, strict=True):
            rest -= weight
            if rest < 0:
                return thing
        # Rounding can leave the loop without a choice: take the last thing with a weight.
        return [thing for thing, weight in zip(things, weights, strict=True) if weight > 0][-1]


def _beta(draws: Draws, bounds: Sequence[float]) -> float:
    """Draw beta below and above 1 equally often, if the bounds allow both."""
    low, high = bounds
    middle = min(max(1.0, low), high)
    return draws.uniform((low, middle) if draws.chance(0.5) else (middle, high))


def draw_sinc(draws: Draws, radius: int, low: float) -> KernelParameters:
    """Draw a sinc filter with a cutoff between ``low`` and pi."""
    return KernelParameters("sinc", radius, cutoff=draws.uniform((low, math.pi)))


def draw_blur(draws: Draws, options: FirstOrderOptions) -> KernelParameters:
    """Draw the blur kernel of a round."""
    radius = draws.integer(options.kernel_radius)
    if draws.chance(options.sinc_prob):
        # A small kernel with a low cutoff would be a box, not a sinc.
        return draw_sinc(draws, radius, math.pi / 3 if radius < 6 else math.pi / 5)
    family = draws.choice(FAMILIES, options.kernel_weights)
    sigma_x = draws.uniform(options.blur_sigma)
    sigma_y, angle, beta = sigma_x, 0.0, 1.0
    if family.endswith("aniso"):
        sigma_y, angle = draws.uniform(options.blur_sigma), draws.uniform((-math.pi, math.pi))
    if family.startswith("generalized"):
        beta = _beta(draws, options.generalized_beta)
    elif family.startswith("plateau"):
        beta = _beta(draws, options.plateau_beta)
    return KernelParameters(family, radius, sigma_x, sigma_y, angle, beta)


def draw_noise(draws: Draws, options: FirstOrderOptions) -> NoiseParameters:
    """Draw the noise of a round."""
    gaussian = draws.chance(options.gaussian_prob)
    strength = draws.uniform(options.gaussian_sigma if gaussian else options.poisson_scale)
    gray = draws.chance(options.gray_prob)
    return NoiseParameters("gaussian" if gaussian else "poisson", strength, gray, draws.integer((0, 2**32 - 1)))


def draw_order(draws: Draws, options: FirstOrderOptions) -> OrderParameters:
    """Draw one round."""
    blur = draw_blur(draws, options) if draws.chance(options.blur_prob) else None
    smallest, greatest = options.resize_range
    bounds = draws.choice(((1.0, greatest), (smallest, 1.0), (1.0, 1.0)), options.resize_weights)
    resize = draws.uniform(bounds)
    mode = draws.choice(RESIZE_MODES)
    noise = draw_noise(draws, options) if draws.chance(options.noise_prob) else None
    jpeg = draws.integer(options.jpeg_quality) if draws.chance(options.jpeg_prob) else None
    return OrderParameters(blur, resize, mode, noise, jpeg)


def draw_image(
    numbers: Sequence[float], options: DegradationOptions, like: ImageParameters | None = None
) -> ImageParameters:
    """Draw the parameters of one image.

    Args:
        numbers: :data:`NUMBERS_PER_IMAGE` uniform numbers in [0, 1).
        options: probabilities and ranges.
        like: image of which to take :attr:`ImageParameters.structure`; None draws one.
    """
    draws = Draws(numbers)
    first, second = draw_order(draws, options.first), draw_order(draws, options.second)
    sinc = None
    if draws.chance(options.final_sinc_prob):
        sinc = draw_sinc(draws, draws.integer(options.final_sinc_radius), math.pi / 3)
    jpeg_last, mode = draws.chance(options.jpeg_last_prob), draws.choice(RESIZE_MODES)
    skip_first, clean = not draws.chance(options.first_prob), draws.chance(options.clean_prob)
    light = not clean and draws.chance(options.light_prob)
    if like is not None:
        first = replace(first, resize=like.first.resize, mode=like.first.mode)
        second = replace(second, resize=like.second.resize, mode=like.second.mode)
        jpeg_last, mode = like.jpeg_last, like.mode
        skip_first, clean, light = like.skip_first, like.clean, like.light
    if light:
        second, sinc, jpeg_last, skip_first = draw_light(draws, second), None, True, True
    return ImageParameters(first, second, sinc, jpeg_last, mode, skip_first, clean, light)


def draw_light(draws: Draws, second: OrderParameters) -> OrderParameters:
    """Draw a light round: blur and noise each with probability 1/2, and at most a quarter of the noise."""
    blur = second.blur if draws.chance(0.5) else None
    noise, has_noise, part = second.noise, draws.chance(0.5), draws.uniform((0.0, 0.25))
    noise = replace(noise, strength=noise.strength * part) if noise is not None and has_noise else None
    return replace(second, blur=blur, noise=noise, resize=1.0)
