"""Blocks of an option file that are ours. Every field says its meaning, unit and range."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from amd_restore.options.fields import PathText, option


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """``codec.encoder_lora``: low-rank matrices beside frozen weights (2106.09685)."""

    rank: int = option(4, "rank of the added matrices", low=1)
    alpha: float | None = option(None, "their sum is multiplied by alpha / rank; null: as the rank", above=0)
    target_modules: list[str] | None = option(None, "names of the layers that get them; null: the usual ones")


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
        "space-to-depth of the residual over the upsampled input, or of the image; or diffusers' autoencoder",
    )
    patch: int = option(4, "residual, pixel: side of a latent cell in output pixels, a multiple of scale", low=1)
    std: float = option(
        0.07, "residual, pixel: standard deviation of what is coded over the training images, pixel units", above=0
    )
    pretrained_model_name_or_path: PathText | None = option(
        None, "autoencoder: folder, file or hub id, as network_g's argument of that name"
    )
    subfolder: str | None = option("vae", "autoencoder: its folder in there; null: the folder itself")
    revision: str | None = option(None, "autoencoder: branch, tag or commit of the hub")
    single_file_config: PathText | None = option(
        None, "autoencoder: folder or hub id with the config of a single file; null: diffusers guesses"
    )
    dtype: Literal["fp32", "bf16"] = option("fp32", "autoencoder: of its weights and arithmetic")
    checkpoint: bool = option(
        False, "autoencoder: recompute the decoder in the backward pass, which takes time and saves memory"
    )
    train_encoder: bool = option(
        False, "autoencoder: the student's condition is encoded by an encoder that is trained with it, by LoRA"
    )
    encoder_lora: LoraOptions | None = option(None, "autoencoder: LoRA of that encoder; null: rank 4")

    def arguments(self) -> dict[str, Any]:
        """``{type, ...}`` with the keys that this type reads."""
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
        "of the other kernels: isotropic and anisotropic Gaussian, generalised, plateau; relative",
        low=0,
    )
    blur_sigma: list[float] = option([0.2, 3.0], "range of the kernel's deviation along each axis, pixels", above=0)
    generalized_beta: list[float] = option([0.5, 4.0], "range of beta; half of the draws are below 1", above=0)
    plateau_beta: list[float] = option([1.0, 2.0], "range of beta; half of the draws are up to 1", above=0)
    resize_weights: list[float] = option([0.2, 0.7, 0.1], "of resizing up, down, not at all; relative", low=0)
    resize_range: list[float] = option([0.15, 1.5], "smallest and greatest factor of the clean size", above=0, high=4)
    noise_prob: float = option(1.0, "probability of noise", low=0, high=1)
    gaussian_prob: float = option(0.5, "share of Gaussian noise; the rest is Poisson", low=0, high=1)
    gaussian_sigma: list[float] = option([1.0, 30.0], "range of the deviation, 1/255", low=0)
    poisson_scale: list[float] = option([0.05, 3.0], "range of the factor on Poisson noise", low=0)
    gray_prob: float = option(0.4, "share of noise that is equal in all channels", low=0, high=1)
    jpeg_prob: float = option(1.0, "probability of JPEG", low=0, high=1)
    jpeg_quality: list[int] = option([30, 95], "range of the quality", low=1, high=100)

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
    """``degradation.second``: the same once more, with its own defaults."""

    blur_prob: float = option(0.8, "probability of blur", low=0, high=1)
    blur_sigma: list[float] = option([0.2, 1.5], "range of the kernel's deviation along each axis, pixels", above=0)
    resize_weights: list[float] = option([0.3, 0.4, 0.3], "of resizing up, down, not at all; relative", low=0)
    resize_range: list[float] = option([0.3, 1.2], "smallest and greatest factor of the target size", above=0, high=4)
    gaussian_sigma: list[float] = option([1.0, 25.0], "range of the deviation, 1/255", low=0)
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
    clean_prob: float = option(
        0.0, "second_order: share that is scaled down as by bicubic, nothing else", low=0, high=1
    )
    light_prob: float = option(
        0.0,
        "second_order: share of the others with one light round, as pictures from the web: half of them blurred, half "
        "with a little noise, scaled down, JPEG",
        low=0,
        high=1,
    )
    first_prob: float = option(1.0, "second_order: probability of the first round", low=0, high=1)
    final_sinc_prob: float = option(0.8, "second_order: probability of the final sinc filter", low=0, high=1)
    final_sinc_radius: list[int] = option([3, 10], "second_order: range of its radius, pixels", low=1, high=50)
    jpeg_last_prob: float = option(
        0.5, "second_order: share in which the second JPEG follows the final resize and sinc filter", low=0, high=1
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
                "final_sinc_prob",
                "final_sinc_radius",
                "jpeg_last_prob",
            ):
                if getattr(self, key) != getattr(_DEFAULT_DEGRADATION, key):
                    raise ValueError(f"{key}: only type second_order has it")


_DEFAULT_DEGRADATION = DegradationOptions(type="second_order")


@dataclass(frozen=True, kw_only=True)
class DiffusionOptions:
    """``diffusion``: forward process, and how the teacher's training draws times."""

    process: Literal["rectified_flow", "variance_preserving", "flow_matching", "pretrained"] = option(
        "rectified_flow",
        "forward process; pretrained: process and prediction type of a checkpoint's own scheduler config",
    )
    prediction_type: Literal["v", "x0", "eps", "flow"] = option(
        "v", "what the networks output; process pretrained knows it and ignores this"
    )
    pretrained_model_name_or_path: PathText | None = option(
        None, "whose scheduler process pretrained reads; null: network_g's, else network_teacher's"
    )
    scheduler_subfolder: str = option("scheduler", "folder of that scheduler in there")
    num_train_timesteps: int = option(1000, "steps of variance_preserving's table", low=2)
    beta_start: float = option(0.00085, "variance_preserving: first beta", above=0, below=1)
    beta_end: float = option(0.012, "variance_preserving: last beta", above=0, below=1)
    beta_schedule: Literal["scaled_linear", "linear", "squaredcos_cap_v2"] = option(
        "scaled_linear", "variance_preserving: how beta grows; scaled_linear is Stable Diffusion's"
    )
    rescale_betas_zero_snr: bool = option(False, "variance_preserving: the last state is pure noise (2305.08891)")
    shift: float = option(1.0, "flow_matching: shift of the times; Stable Diffusion 3 has 3", above=0)
    logit_mean: float = option(0.5, "mean of logit(t) in training; positive leans to noise")
    logit_std: float = option(1.0, "deviation of logit(t) in training", above=0)
    share_t1: float = option(0.15, "share of the batch at pure noise, t = 1", low=0, high=1)
    cond_dropout: float = option(0.1, "share of the batch without condition, for guidance", low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """``distill``: DMD and AMD (2602.07345). Both strengths at 0 are DMD bit for bit.

    A SupervisedModel has the student's steps, its start and the group from here, and nothing else.

    Raises:
        ValueError: times out of order, or weights that do not fit the steps.
    """

    num_steps: list[int] = option([1, 2, 4], "schedule lengths that one student learns", low=1, high=1000)
    step_weights: list[float] | None = option(None, "how often each length is drawn, relative; null: equally", low=0)
    renoise: bool = option(True, "fresh noise between the student's steps; false: deterministic steps, as the teacher")
    time_shift: float = option(
        1.0, "times of the student's steps; 1: even, less: after the first step nearer to the image", above=0
    )
    group_size: int = option(4, "samples per low-quality image, which the advantage compares", low=1)
    fake_updates_per_student: int = option(4, "updates of the fake score per update of the student", low=1)
    fake_sees_step: bool = option(
        False, "tell the fake score at which of the student's steps a sample was made; needed for several steps"
    )
    start: Literal["noise", "lq"] = option(
        "noise", "what the student starts from: noise, or the latent of the enlarged lq (OSEDiff)"
    )
    start_noise: float = option(
        0.0, "start lq: noise added to that latent, in deviations of the process at t = 1; makes samples differ", low=0
    )
    decode_crop: int | None = option(
        None, "side in latent cells of the random window that is decoded for losses and rewards; null: all", low=1
    )
    guidance_scale: float = option(1.0, "guidance of the real score; 1 is none", low=0)
    normalizer: Literal["teacher", "guided", "none"] = option(
        "teacher",
        "what divides the direction: the sample's mean distance to the teacher's estimate (DMD, eq. 8), to the guided "
        "one (DMD2), or nothing",
    )
    share_times: bool = option(False, "samples of a group are matched at the same time with the same noise")
    matching_draws: int = option(1, "times and noises at which a sample is matched, averaged", low=1)
    advantage: Literal["group", "teacher"] = option(
        "group", "what a sample is compared with: its group (eq. 12), or the teacher's sample of the same lq"
    )
    teacher_steps: int = option(2, "advantage teacher: steps of the teacher's sample", low=1)
    permute_advantage: bool = option(False, "control: each sample gets the advantage of another one")
    adaptation_strength: float = option(0.5, "score adaptation (eq. 13); 0 is DMD", low=0, below=1)
    sharpening_strength: float = option(0.5, "sharpening of the fake score; 0 is DMD", low=0)
    spatial: bool = option(False, "an advantage for each location, from rewards that have a map")
    map_sigma: float = option(1.0, "blur of the reward maps, in cells of the latent grid", low=0)
    std_floor: float = option(
        0.0, "least standard deviation of a group, relative to its running mean; at least 1 with group_size 2", low=0
    )
    t_min: float = option(0.1, "least time at which scores are compared", low=0, below=1)
    t_max: float = option(0.98, "greatest time at which scores are compared", above=0, high=1)
    weight_dmd: float = option(1.0, "weight of the matching loss", low=0)
    matching_decay: float = option(
        0.0, "power p: the matching loss of the student's step at time t counts t^p; 0: all steps count fully", low=0
    )
    matching_first: bool = option(
        True, "false: the student's first step, from noise alone, learns by the losses to the ground truth only"
    )
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
    weight: float = option(1.0, "factor in the weighted sum; rewards are already: higher is better")
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """One entry of ``losses``; the other keys are arguments of its class."""

    type: str = option(
        doc="registered class: L1, L2, PooledL1, CellProfile, LPIPS, DISTS, EfficientNet, Reward, Adversarial"
    )
    weight: float = option(1.0, "factor in the sum; 0 leaves the loss out", low=0)
    arguments: dict[str, Any] = field(default_factory=dict)
