"""Blocks of an option file that this package adds to BasicSR's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from amd_restore.options.fields import PathText, option


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """``codec.encoder_lora``: low-rank matrices beside frozen weights (2106.09685)."""

    rank: int = option(4, "rank of the added matrices", low=1)
    alpha: float | None = option(None, "their output is multiplied by alpha / rank; null: equal to rank", above=0)
    target_modules: list[str] | None = option(None, "names of the adapted layers; null: the usual ones")


# Keys of ``codec`` that only some types read.
_PIXEL_KEYS = ("patch", "std")
_AUTOENCODER_KEYS = (
    "pretrained_model_name_or_path",
    "subfolder",
    "revision",
    "single_file_config",
    "dtype",
    "checkpoint",
    "train_encoder",
    "encoder_lora",
)


@dataclass(frozen=True, kw_only=True)
class CodecOptions:
    """``codec``: the space in which diffusion runs.

    Raises:
        ValueError: a key that this type does not read, or an autoencoder without a model.
    """

    type: Literal["residual", "pixel", "autoencoder"] = option(
        "residual",
        "latent: space-to-depth of the residual over the upsampled input, of the image, or diffusers' autoencoder",
    )
    patch: int = option(4, "residual, pixel: side of a latent cell in output pixels, a multiple of scale", low=1)
    std: float = option(
        0.07, "residual, pixel: standard deviation of the coded values over the training images, pixel units", above=0
    )
    pretrained_model_name_or_path: PathText | None = option(None, "autoencoder: folder, file or hub id")
    subfolder: str | None = option("vae", "autoencoder: its subfolder; null: the folder itself")
    revision: str | None = option(None, "autoencoder: branch, tag or commit of the hub")
    single_file_config: PathText | None = option(
        None, "autoencoder: folder or hub id with the config of a single file; null: diffusers guesses"
    )
    dtype: Literal["fp32", "bf16"] = option("fp32", "autoencoder: precision of weights and arithmetic")
    checkpoint: bool = option(
        False, "autoencoder: recompute the decoder in the backward pass, which is slower and saves memory"
    )
    train_encoder: bool = option(
        False, "autoencoder: train an encoder of the condition together with the student, by LoRA"
    )
    encoder_lora: LoraOptions | None = option(None, "autoencoder: LoRA of that encoder; null: rank 4")

    def arguments(self) -> dict[str, Any]:
        """Return ``{type, ...}`` with the keys that this type reads."""
        keys = _AUTOENCODER_KEYS if self.type == "autoencoder" else _PIXEL_KEYS
        values = {key: getattr(self, key) for key in keys}
        if self.encoder_lora is not None:
            values["encoder_lora"] = asdict(self.encoder_lora)
        return {"type": self.type, **values}

    def __post_init__(self) -> None:
        is_autoencoder = self.type == "autoencoder"
        if is_autoencoder and not self.pretrained_model_name_or_path:
            raise ValueError("pretrained_model_name_or_path: missing; type autoencoder needs it")
        for key in _PIXEL_KEYS if is_autoencoder else _AUTOENCODER_KEYS:
            default = next(f.default for f in fields(CodecOptions) if f.name == key)
            if getattr(self, key) != default:
                raise ValueError(f"{key}: type {self.type} does not have it")
        if self.encoder_lora is not None and not self.train_encoder:
            raise ValueError("encoder_lora needs train_encoder: true")


def _check_range(name: str, bounds: list[float] | list[int]) -> None:
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise ValueError(f"{name} needs two numbers, least and greatest, got {bounds}")


@dataclass(frozen=True, kw_only=True)
class FirstOrderOptions:
    """``degradation.first``: blur, resize, noise and JPEG of ``second_order``; the defaults are Real-ESRGAN's.

    Raises:
        ValueError: a range without two ordered numbers, or weights that do not fit what they weigh.
    """

    blur_prob: float = option(1.0, "probability of blur", low=0, high=1)
    kernel_radius: list[int] = option([3, 10], "range of the kernel's radius, pixels; side 2 r + 1", low=1, high=50)
    sinc_prob: float = option(0.1, "share of sinc filters among the blur kernels", low=0, high=1)
    kernel_weights: list[float] = option(
        [0.45, 0.25, 0.12, 0.03, 0.12, 0.03],
        "relative probabilities of the other kernels: Gaussian, generalised, plateau, each isotropic and anisotropic",
        low=0,
    )
    blur_sigma: list[float] = option([0.2, 3.0], "range of the kernel's standard deviation, pixels", above=0)
    generalized_beta: list[float] = option([0.5, 4.0], "range of beta; half of the draws are below 1", above=0)
    plateau_beta: list[float] = option([1.0, 2.0], "range of beta; half of the draws are up to 1", above=0)
    resize_weights: list[float] = option(
        [0.2, 0.7, 0.1], "relative probabilities of resizing up, down, not at all", low=0
    )
    resize_range: list[float] = option([0.15, 1.5], "range of the factor on the clean size", above=0, high=4)
    noise_prob: float = option(1.0, "probability of noise", low=0, high=1)
    gaussian_prob: float = option(0.5, "share of Gaussian noise; the rest is Poisson", low=0, high=1)
    gaussian_sigma: list[float] = option([1.0, 30.0], "range of the standard deviation, 1/255", low=0)
    poisson_scale: list[float] = option([0.05, 3.0], "range of the factor on Poisson noise", low=0)
    gray_prob: float = option(0.4, "share of noise that is equal in all channels", low=0, high=1)
    jpeg_prob: float = option(1.0, "probability of JPEG", low=0, high=1)
    jpeg_quality: list[int] = option([30, 95], "range of the JPEG quality", low=1, high=100)

    def __post_init__(self) -> None:
        for name in ("kernel_radius", "blur_sigma", "generalized_beta", "plateau_beta", "resize_range"):
            _check_range(name, getattr(self, name))
        for name in ("gaussian_sigma", "poisson_scale", "jpeg_quality"):
            _check_range(name, getattr(self, name))
        for name, count in (("kernel_weights", 6), ("resize_weights", 3)):
            weights = getattr(self, name)
            if len(weights) != count or sum(weights) <= 0:
                raise ValueError(f"{name} needs {count} numbers, not all 0, got {weights}")
        if not self.resize_range[0] <= 1 <= self.resize_range[1]:
            raise ValueError(f"resize_range must contain 1, got {self.resize_range}")


@dataclass(frozen=True, kw_only=True)
class SecondOrderOptions(FirstOrderOptions):
    """``degradation.second``: a second round with its own defaults."""

    blur_prob: float = option(0.8, "probability of blur", low=0, high=1)
    blur_sigma: list[float] = option([0.2, 1.5], "range of the kernel's standard deviation, pixels", above=0)
    resize_weights: list[float] = option(
        [0.3, 0.4, 0.3], "relative probabilities of resizing up, down, not at all", low=0
    )
    resize_range: list[float] = option([0.3, 1.2], "range of the factor on the target size", above=0, high=4)
    gaussian_sigma: list[float] = option([1.0, 25.0], "range of the standard deviation, 1/255", low=0)
    poisson_scale: list[float] = option([0.05, 2.5], "range of the factor on Poisson noise", low=0)


@dataclass(frozen=True, kw_only=True)
class DegradationOptions:
    """``degradation``: how the low-quality side of a clean image is made.

    Raises:
        ValueError: settings of ``second_order`` with another type, or a range without two ordered numbers.
    """

    type: Literal["bicubic", "second_order"] = option(
        "bicubic", "antialiased bicubic downscaling by scale, or Real-ESRGAN's second-order degradation"
    )
    quantize: bool = option(True, "round the result to 8 bits")
    first: FirstOrderOptions = option(FirstOrderOptions(), "first round of second_order")
    second: SecondOrderOptions = option(SecondOrderOptions(), "second round of second_order")
    clean_prob: float = option(0.0, "second_order: share of images that get bicubic downscaling only", low=0, high=1)
    light_prob: float = option(
        0.0,
        "second_order: share of the others with one light round, like images from the web: half of them blurred, half "
        "with a little noise, scaled down, JPEG",
        low=0,
        high=1,
    )
    first_prob: float = option(1.0, "second_order: probability of the first round", low=0, high=1)
    share: int = option(
        1, "second_order: images in a row with the same sizes and order of operations; a GPU is faster with 8", low=1
    )
    final_sinc_prob: float = option(0.8, "second_order: probability of the final sinc filter", low=0, high=1)
    final_sinc_radius: list[int] = option(
        [3, 10], "second_order: range of the radius of that filter, pixels", low=1, high=50
    )
    jpeg_last_prob: float = option(
        0.5, "second_order: share of images with the second JPEG after the final resize and sinc filter", low=0, high=1
    )

    def __post_init__(self) -> None:
        _check_range("final_sinc_radius", self.final_sinc_radius)
        if self.type == "bicubic":
            for key in (
                "first",
                "second",
                "clean_prob",
                "light_prob",
                "first_prob",
                "share",
                "final_sinc_prob",
                "final_sinc_radius",
                "jpeg_last_prob",
            ):
                if getattr(self, key) != getattr(_DEFAULT_DEGRADATION, key):
                    raise ValueError(f"{key}: only type second_order has it")


_DEFAULT_DEGRADATION = DegradationOptions(type="second_order")


@dataclass(frozen=True, kw_only=True)
class DiffusionOptions:
    """``diffusion``: forward process, and distribution of times in the teacher's training."""

    process: Literal["rectified_flow", "variance_preserving", "flow_matching", "pretrained"] = option(
        "rectified_flow",
        "forward process; pretrained: process and prediction type of a checkpoint's scheduler config",
    )
    prediction_type: Literal["v", "x0", "eps", "flow"] = option(
        "v", "output of the networks; ignored with process: pretrained"
    )
    pretrained_model_name_or_path: PathText | None = option(
        None, "process pretrained: checkpoint with the scheduler; null: network_g's, else network_teacher's"
    )
    scheduler_subfolder: str = option("scheduler", "process pretrained: subfolder of the scheduler")
    num_train_timesteps: int = option(1000, "variance_preserving: number of steps in the table", low=2)
    beta_start: float = option(0.00085, "variance_preserving: first beta", above=0, below=1)
    beta_end: float = option(0.012, "variance_preserving: last beta", above=0, below=1)
    beta_schedule: Literal["scaled_linear", "linear", "squaredcos_cap_v2"] = option(
        "scaled_linear", "variance_preserving: how beta grows; scaled_linear is Stable Diffusion's"
    )
    rescale_betas_zero_snr: bool = option(False, "variance_preserving: the last state is pure noise (2305.08891)")
    shift: float = option(1.0, "flow_matching: shift of the times; Stable Diffusion 3 uses 3", above=0)
    logit_mean: float = option(0.5, "mean of logit(t) in training; positive: more noise")
    logit_std: float = option(1.0, "standard deviation of logit(t) in training", above=0)
    share_t1: float = option(0.15, "share of the batch at pure noise, t = 1", low=0, high=1)
    cond_dropout: float = option(0.1, "share of the batch without condition, for guidance", low=0, high=1)
    losses_below: float = option(
        1.0, "losses and fake_losses: largest time of the estimates that have them", above=0, high=1
    )


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """``distill``: DMD and AMD (2602.07345). Both strengths at 0 are DMD bit for bit.

    A SupervisedModel reads only the steps, the start and the group.

    Raises:
        ValueError: times out of order, or weights that do not fit the steps.
    """

    num_steps: list[int] = option([1, 2, 4], "numbers of steps that one student learns", low=1, high=1000)
    step_weights: list[float] | None = option(None, "relative probability of each number of steps; null: equal", low=0)
    renoise: bool = option(True, "add fresh noise between the student's steps; false: deterministic steps")
    time_shift: float = option(
        1.0, "spacing of the student's steps; 1: even; below 1: later steps at smaller times", above=0
    )
    group_size: int = option(4, "samples per low-quality image, compared by the advantage", low=1)
    fake_updates_per_student: int = option(4, "updates of the fake score per update of the student", low=1)
    fake_sees_step: bool = option(
        False, "condition the fake score on the student's step that made a sample; needed for several steps"
    )
    start: Literal["noise", "lq"] = option(
        "noise", "starting point of the student: noise, or the latent of the enlarged lq (OSEDiff)"
    )
    start_noise: float = option(
        0.0, "start lq: noise added to that latent, relative to the noise level at t = 1; makes samples differ", low=0
    )
    decode_crop: int | None = option(
        None, "side of the random window decoded for losses and rewards, in latent cells; null: the whole image", low=1
    )
    guidance_scale: float = option(1.0, "guidance of the real score; 1: no guidance", low=0)
    normalizer: Literal["teacher", "guided", "none"] = option(
        "teacher",
        "divisor of the matching direction: the sample's mean distance to the teacher's estimate (DMD, eq. 8), to the "
        "guided one (DMD2), or none",
    )
    share_times: bool = option(False, "match all samples of a group at the same time with the same noise")
    matching_draws: int = option(1, "number of times and noises over which the matching of a sample is averaged", low=1)
    advantage: Literal["group", "teacher"] = option(
        "group", "baseline of a sample's reward: its group (eq. 12), or the teacher's sample of the same lq"
    )
    teacher_steps: int = option(2, "advantage teacher: number of steps of the teacher's sample", low=1)
    advantage_every: int = option(
        1,
        "student updates per computation of the advantage, which costs the rewards and the teacher's sample; those "
        "between use the mean of the last one for all samples",
        low=1,
    )
    permute_advantage: bool = option(False, "control experiment: give each sample the advantage of another")
    adaptation_strength: float = option(0.5, "strength of the score adaptation (eq. 13); 0: DMD", low=0, below=1)
    sharpening_strength: float = option(0.5, "strength of the sharpening of the fake score; 0: DMD", low=0)
    spatial: bool = option(False, "compute an advantage for each location, from rewards that have a map")
    map_sigma: float = option(1.0, "standard deviation of the blur of reward maps, in latent cells", low=0)
    std_floor: float = option(
        0.0,
        "lower bound on a group's standard deviation, relative to its running mean; at least 1 with group_size 2",
        low=0,
    )
    t_min: float = option(0.1, "smallest time at which scores are compared", low=0, below=1)
    t_max: float = option(0.98, "largest time at which scores are compared", above=0, high=1)
    weight_dmd: float = option(1.0, "weight of the matching loss", low=0)
    matching_decay: float = option(
        0.0, "power p: the matching loss of a step at time t is weighted by t^p; 0: equal weights", low=0
    )
    matching_first: bool = option(
        True, "apply the matching loss to the first step, too; false: it learns by the losses to the ground truth only"
    )
    standardize_rewards: bool = option(True, "divide each reward by its running standard deviation inside groups")

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
        weighed = self.advantage == "group" and (self.adaptation_strength or self.sharpening_strength)
        if self.group_size == 2 and self.std_floor < 1 and weighed:
            raise ValueError(
                f"std_floor ({self.std_floor:g}) with group_size 2: the advantage of two samples would be a sign only; "
                "set std_floor: 1, or group_size: 3 or more"
            )
        if self.start_noise and self.start != "lq":
            raise ValueError("start_noise needs start: lq; start: noise is all noise")
        if self.decode_crop is not None and self.spatial:
            raise ValueError("spatial: maps need the whole image; leave decode_crop out")


@dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """One entry of ``rewards``; the other keys are arguments of its class."""

    type: str = option(doc="registered class")
    weight: float = option(1.0, "factor in the weighted sum; every reward is higher for better images")
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """One entry of ``losses``; the other keys are arguments of its class."""

    type: str = option(
        doc="registered class: L1, L2, PooledL1, CellProfile, DiagonalDetail, ChromaDetail, LPIPS, DISTS, "
        "EfficientNet, Reward, Adversarial"
    )
    weight: float = option(1.0, "factor in the sum; 0: the loss is not computed", low=0)
    arguments: dict[str, Any] = field(default_factory=dict)
