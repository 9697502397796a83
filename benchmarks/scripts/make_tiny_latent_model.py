"""Make a tiny model of Stable Diffusion's classes, for trying latent training on a CPU.

    python benchmarks/scripts/make_tiny_latent_model.py datasets/data/tiny_sd --crops datasets/data/crops_256.npy \
        --train_seconds 300

writes a folder as diffusers' ``save_pretrained`` does: ``vae`` (AutoencoderKL, one latent cell for 2 x 2 pixels),
``unet`` (UNet2DConditionModel) and ``scheduler`` (DDPMScheduler). The autoencoder starts as the linear one that
averages each cell, and is trained first, for squared error and L1; then the U-Net learns to denoise its latents,
without any condition, as a base for LoRA. Nothing is downloaded. With ``--train_seconds 0`` the U-Net stays random.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amd_restore import compat
from amd_restore.errors import AMDRestoreError, Parser, run_command, say

VAE_SHARE = 0.6  # of the training time
VAE_SIDE, UNET_SIDE = 32, 48  # pixels of their training crops
CARRIER = 30.0  # constant channel that makes group normalisation almost linear
CROSS_DIM = 16  # width of a text embedding; there is no text, so it only has to exist
Draw = Callable[[int, int], Tensor]


def build_parts(width: int, latent_channels: int, prediction_type: str) -> tuple[Any, Any, Any]:
    """Random autoencoder, U-Net and scheduler."""
    compat.patch()
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

    vae = AutoencoderKL(
        block_out_channels=(width, 2 * width),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=1,
        mid_block_add_attention=False,
        sample_size=VAE_SIDE,
    )
    start_linear(vae)
    unet = UNet2DConditionModel(
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(2 * width, 2 * width),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=CROSS_DIM,
        attention_head_dim=8,
        norm_num_groups=8,
        sample_size=UNET_SIDE // 2,
    )
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type
    )
    return vae, unet, scheduler


@torch.no_grad()
def start_linear(vae: Any) -> None:
    """Let the autoencoder start as: average of each cell, and back by smooth interpolation.

    Residual branches start as nothing. A colour travels as a pair of channels (+c, -c), of which SiLU keeps the
    difference, for ``silu(c) - silu(-c) = c``. Beside them a pair of large constants fixes what group normalisation
    divides by. The other channels start as diffusers makes them.
    """
    for name, parameter in vae.named_parameters():
        if ".conv2." in name:
            torch.nn.init.zeros_(parameter)
    box = torch.zeros(3, 3)
    box[:2, :2] = 0.25
    smooth = torch.tensor([0.25, 0.5, 0.25]).outer(torch.tensor([0.25, 0.5, 0.25]))
    encoder, decoder = vae.encoder, vae.decoder
    for half in (encoder, decoder):
        _pairs_in(half.conv_in)
        _pairs_out(half.conv_norm_out, half.conv_out)
    _pass_on(encoder.down_blocks[0].downsamplers[0].conv, box)
    _pass_on(decoder.up_blocks[0].upsamplers[0].conv, smooth)
    for block in (encoder.down_blocks[1], decoder.up_blocks[1]):
        _pass_on(block.resnets[0].conv_shortcut, torch.ones(1, 1))
    _pass_on(vae.quant_conv, torch.ones(1, 1), 3)
    _pass_on(vae.post_quant_conv, torch.ones(1, 1), 3)


def _pass_on(layer: Any, kernel: Tensor, count: int = 8) -> None:
    """The first ``count`` channels go through ``kernel`` and nothing else does; the constants go nowhere else."""
    layer.weight[count:, 6:8] = 0
    layer.weight[:count] = 0
    layer.bias[:count] = 0
    for channel in range(count):
        layer.weight[channel, channel] = kernel


def _pairs_in(layer: Any) -> None:
    layer.weight[:8] = 0
    layer.bias[:8] = 0
    for channel in range(6):
        layer.weight[channel, channel // 2, 1, 1] = 1.0 - 2.0 * (channel % 2)
    layer.bias[6], layer.bias[7] = CARRIER, -CARRIER


def _pairs_out(norm: Any, layer: Any) -> None:
    channels = norm.num_channels
    norm.weight[:6] = CARRIER * (2 / channels) ** 0.5
    norm.weight[6:8] = 0
    layer.weight[:3] = 0
    layer.bias[:3] = 0
    for colour in range(3):
        layer.weight[colour, 2 * colour, 1, 1], layer.weight[colour, 2 * colour + 1, 1, 1] = 1.0, -1.0


def reader(crops: np.ndarray[Any, Any], seed: int) -> Draw:
    """Random flipped crops of photographs: ``draw(count, side)`` gives (count, 3, side, side) in [-1, 1]."""
    generator = np.random.default_rng(seed)

    def draw(count: int, side: int) -> Tensor:
        batch = []
        for index in generator.integers(0, len(crops), count):
            top, left = generator.integers(0, crops.shape[1] - side + 1, 2)
            batch.append(crops[index, top : top + side, left : left + side, :: int(generator.choice((1, -1)))])
        pixels = np.stack([one[:, :: int(generator.choice((1, -1)))] for one in batch])
        return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1.0

    return draw


def fit(parameters: Any, loss: Callable[[], Tensor], seconds: float, lr: float) -> tuple[int, float]:
    """Adam with a rate that falls to zero when the time is over; number of steps and mean of the last losses."""
    optimizer = torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.99))
    start, steps, recent = time.monotonic(), 0, 0.0
    while (spent := time.monotonic() - start) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (steps + 1) / 50) * (1.0 - spent / seconds)
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        steps, recent = steps + 1, 0.95 * recent + 0.05 * float(value.detach()) if steps else float(value.detach())
    return steps, recent


def train_autoencoder(vae: Any, draw: Draw, seconds: float) -> int:
    """Squared error and L1 of the reconstruction from the posterior's mode, the only part of it that is used."""

    def loss() -> Tensor:
        image = draw(8, VAE_SIDE)
        error = vae.decode(vae.encode(image).latent_dist.mode()).sample - image
        return error.square().mean() + 0.1 * error.abs().mean()

    return fit(vae.parameters(), loss, seconds, 5e-4)[0]


@torch.no_grad()
def measure(vae: Any, draw: Draw) -> tuple[float, float]:
    """PSNR of the reconstruction in dB, and the deviation of the latents, on 32 crops of 128 pixels."""
    image = draw(32, 128)
    latent = vae.encode(image).latent_dist.mode()
    error = (vae.decode(latent).sample.clamp(-1, 1) - image).square().mean(dim=(1, 2, 3)) / 4
    return float((-10 * error.log10()).mean()), float(latent.std())


def train_unet(unet: Any, vae: Any, scheduler: Any, draw: Draw, seconds: float) -> tuple[int, float]:
    """Denoising of latents without condition; the text embedding is zero."""
    vae.requires_grad_(False)
    steps = scheduler.config.num_train_timesteps

    def loss() -> Tensor:
        with torch.no_grad():
            x0 = vae.encode(draw(4, UNET_SIDE)).latent_dist.mode() * vae.config.scaling_factor
        noise, t = torch.randn_like(x0), torch.randint(0, steps, (len(x0),))
        x_t = scheduler.add_noise(x0, noise, t)
        is_v = scheduler.config.prediction_type == "v_prediction"
        target = scheduler.get_velocity(x0, noise, t) if is_v else noise
        text = x0.new_zeros(len(x0), 1, CROSS_DIM)
        answer: Tensor = unet(x_t, t, encoder_hidden_states=text).sample
        return (answer - target).square().mean()

    return fit(unet.parameters(), loss, seconds, 1e-3)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: 0, or 2 after a one-line error."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the model is written")
    parser.add_argument("--crops", type=Path, help="array of training crops, see pack_crops.py")
    parser.add_argument("--train_seconds", type=float, default=300.0, help="0 leaves random weights")
    parser.add_argument("--width", type=int, default=16, help="narrowest layer, a multiple of 8")
    parser.add_argument("--latent_channels", type=int, default=4)
    parser.add_argument("--prediction_type", choices=["v_prediction", "epsilon"], default="v_prediction")
    parser.add_argument("--threads", type=int, help="of torch; left out: it decides")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    return run_command(lambda: make(args), args.debug)


def make(args: argparse.Namespace) -> None:
    """Build, train and write.

    Raises:
        AMDRestoreError: training without crops, or a width that the norms cannot divide.
    """
    if args.train_seconds > 0 and args.crops is None:
        raise AMDRestoreError("--train_seconds: training needs --crops (make them with datasets/pack_crops.py)")
    if args.width < 8 or args.width % 8:
        raise AMDRestoreError(f"--width: must be a multiple of 8, got {args.width}")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    vae, unet, scheduler = build_parts(args.width, args.latent_channels, args.prediction_type)
    told: dict[str, Any] = {"train_seconds": args.train_seconds, "seed": args.seed}
    if args.train_seconds > 0:
        crops = np.load(args.crops, mmap_mode="r")
        draw, held_out = reader(crops[64:], args.seed), reader(crops[:64], args.seed + 1)
        told["vae_steps"] = train_autoencoder(vae, draw, VAE_SHARE * args.train_seconds)
        psnr, deviation = measure(vae, held_out)
        vae.register_to_config(scaling_factor=round(1.0 / deviation, 5))
        told.update(vae_psnr=round(psnr, 2), latent_std=round(deviation, 4))
        say(f"autoencoder: {told['vae_steps']} steps, {psnr:.2f} dB on crops it has not seen")
        told["unet_steps"], loss = train_unet(unet, vae, scheduler, draw, (1 - VAE_SHARE) * args.train_seconds)
        told["unet_loss"] = round(loss, 4)
        say(f"U-Net: {told['unet_steps']} steps, loss {loss:.3f}")
    for name, part in (("vae", vae), ("unet", unet), ("scheduler", scheduler)):
        part.save_pretrained(args.folder / name)
    (args.folder / "tiny.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    say(f"{args.folder}: vae, unet, scheduler")


if __name__ == "__main__":
    sys.exit(main())
