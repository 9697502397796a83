"""Blocks of an option file that are ours. Every field says its meaning, unit and range."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from amd_restore.options.fields import option


@dataclass(frozen=True, kw_only=True)
class CodecOptions:
    """``codec``: the space in which diffusion runs."""

    type: Literal["residual"] = option("residual", "space-to-depth of the residual over the upsampled input")
    patch: int = option(4, "side of a latent cell in output pixels, a multiple of scale", low=1)
    std: float = option(0.07, "standard deviation of the residual over the training images, pixel units", above=0)


@dataclass(frozen=True, kw_only=True)
class DegradationOptions:
    """``degradation``: how training makes the low-quality side of a clean image."""

    type: Literal["bicubic"] = option("bicubic", "antialiased bicubic downscaling by scale")
    quantize: bool = option(True, "round the result to 8 bits")


@dataclass(frozen=True, kw_only=True)
class DiffusionOptions:
    """``diffusion``: forward process, and how the teacher's training draws times."""

    process: Literal["rectified_flow", "residual_shift"] = option("rectified_flow", "forward process")
    prediction_type: Literal["v", "x0", "eps", "flow"] = option("v", "what the networks output")
    kappa: float = option(2.0, "noise of residual_shift at t = 1, in deviations of the residual", above=0)
    logit_mean: float = option(0.5, "mean of logit(t) in training; positive leans to noise")
    logit_std: float = option(1.0, "deviation of logit(t) in training", above=0)
    share_t1: float = option(0.15, "share of the batch at pure noise, t = 1", low=0, high=1)
    cond_dropout: float = option(0.1, "share of the batch without condition, for guidance", low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """``distill``: DMD and AMD (2602.07345). Both strengths at 0 are DMD bit for bit.

    Raises:
        ValueError: times out of order, weights that do not fit the steps, or no loss with a weight.
    """

    num_steps: list[int] = option([1, 2, 4], "schedule lengths that one student learns", low=1, high=1000)
    step_weights: list[float] | None = option(None, "how often each length is drawn, relative; null: equally", low=0)
    renoise: bool = option(True, "fresh noise between the student's steps; false: deterministic steps, as the teacher")
    time_shift: float = option(
        1.0, "times of the student's steps; 1: even, less: after the first step nearer to the image", above=0
    )
    group_size: int = option(4, "samples per low-quality image, which the advantage compares", low=1)
    fake_updates_per_student: int = option(4, "updates of the fake score per update of the student", low=1)
    objective: Literal["dmd", "dmd2", "vsd", "regression"] = option(
        "dmd", "what moves the student: DMD; with a GAN head; without normaliser; only the losses to the ground truth"
    )
    fake_sees_step: bool = option(
        False, "tell the fake score at which of the student's steps a sample was made; needed for several steps"
    )
    guidance_scale: float = option(1.0, "guidance of the real score; 1 is none", low=0)
    adaptation_strength: float = option(0.5, "score adaptation (eq. 13); 0 is DMD", low=0, below=1)
    sharpening_strength: float = option(0.5, "sharpening of the fake score; 0 is DMD", low=0)
    sharpening_form: Literal["exp", "linear"] = option("exp", "how sharpening weights fall with the advantage")
    spatial: bool = option(False, "an advantage for each location, from rewards that have a map")
    map_sigma: float = option(1.0, "blur of the reward maps, in cells of the latent grid", low=0)
    std_floor: float = option(0.0, "least group deviation, relative to its running mean", low=0)
    t_min: float = option(0.02, "least time at which scores are compared", low=0, below=1)
    t_max: float = option(0.98, "greatest time at which scores are compared", above=0, high=1)
    normalize: bool = option(True, "divide by each sample's mean distance to the real score (DMD, eq. 8)")
    weight_dmd: float = option(1.0, "weight of the matching loss", low=0)
    matching_decay: float = option(
        0.0, "power p: the matching loss of the student's step at time t counts t^p; 0: all steps count fully", low=0
    )
    weight_pix: float = option(0.0, "weight of L1 to the ground truth, pixel units", low=0)
    weight_percep: float = option(0.0, "weight of LPIPS to the ground truth", low=0)
    weight_gan: float = option(1e-2, "weight of the student's adversarial loss; objective dmd2 only", low=0)
    weight_gan_fake: float = option(1e-2, "weight of the critic's loss; objective dmd2 only", low=0)
    percep_net: Literal["squeeze", "alex", "vgg"] = option("squeeze", "backbone of that LPIPS")
    percep_augment: bool = option(True, "show LPIPS random views, so that it is harder to deceive")
    standardize_rewards: bool = option(True, "divide each reward by its running deviation inside groups")

    def __post_init__(self) -> None:
        if not self.num_steps:
            raise ValueError("num_steps needs at least one number of steps")
        if self.t_min >= self.t_max:
            raise ValueError(f"t_min ({self.t_min:g}) must be less than t_max ({self.t_max:g})")
        if self.step_weights is not None:
            if len(self.step_weights) != len(self.num_steps):
                raise ValueError(f"step_weights has {len(self.step_weights)} entries, num_steps {len(self.num_steps)}")
            if sum(self.step_weights) <= 0:
                raise ValueError("step_weights are all 0")
        if self.objective == "regression":
            if not (self.weight_pix or self.weight_percep):
                raise ValueError("objective regression needs weight_pix or weight_percep")
        elif not (self.weight_dmd or self.weight_pix or self.weight_percep):
            raise ValueError("weight_dmd, weight_pix and weight_percep are all 0; one must be greater")
        if self.sharpening_form == "linear" and self.sharpening_strength >= 1:
            raise ValueError("sharpening_strength must be below 1 with sharpening_form linear")


@dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """One entry of ``rewards``.

    Attributes:
        type: registered class.
        weight: factor in the weighted sum; any sign, but rewards are already "higher is better".
        loss_weight: factor of the reward as a loss of the student; 0 keeps it what AMD makes of it, a diagnosis.
        arguments: the other keys, arguments of that class.
    """

    type: str
    weight: float = 1.0
    loss_weight: float = 0.0
    arguments: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_block(cls, block: dict[str, Any]) -> RewardOptions:
        """From a checked ``{type, weight, ...}``."""
        own = ("type", "weight", "loss_weight")
        arguments = {key: value for key, value in block.items() if key not in own}
        return cls(arguments=arguments, **{key: block[key] for key in own if key in block})
