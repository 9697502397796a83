"""Does guidance help the teacher? Its samples with several kinds of guidance, on degraded crops of photographs.

    python benchmarks/scripts/teacher_guidance.py --gt datasets/data/severity/GT --lq datasets/data/severity/phone \\
        --model x4-real-teacher --steps 1 4 10

Every kind compares the estimate with that of something weaker: no condition, a blurred or a noised lq, or the network
without every fifth block. Prints PSNR-Y, LPIPS-Alex and EffNet-Lite0 for each kind and scale.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amd_restore import RestorationPipeline
from amd_restore.benchmark.images import read_rgb
from amd_restore.data.image_files import list_images
from amd_restore.diffusion import Denoiser, sample_ode
from amd_restore.errors import Parser, run_command, say
from amd_restore.rewards.efficientnet import build_efficientnet
from amd_restore.rewards.lpips_net import build_lpips

LUMA = (65.481, 128.553, 24.966)  # BT.601 of RGB in [0, 1], for values of 0 to 255
SCALES = (0.75, 1.25, 1.5, 2.0)
NOISE = 0.06  # standard deviation added to lq for the weaker condition
BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)
Guide = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> weaker estimate of x0


class Compared(Denoiser):
    """Estimates moved away from those of a guide: ``weak + w (own - weak)``.

    Args:
        denoiser: the teacher.
        guide: what it is compared with.
        scale: w.
    """

    def __init__(self, denoiser: Denoiser, guide: Guide, scale: float) -> None:
        super().__init__(denoiser.net, denoiser.process, denoiser.prediction_type)
        self.own, self.guide, self.scale = denoiser, guide, scale

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None, keep: Tensor | None = None) -> Tensor:
        weak = self.guide(x_t, t)
        return weak + self.scale * (self.own(x_t, t, cond, keep) - weak)


def blurred(lq: Tensor) -> Tensor:
    """``lq`` (B, 3, H, W) after a binomial filter of five taps."""
    taps = torch.tensor(BINOMIAL) / sum(BINOMIAL)
    padded = F.pad(lq, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[:, None]
    return F.conv2d(padded, torch.outer(taps, taps)[None, None]).view_as(lq)


def fewer_blocks(net: nn.Module) -> nn.Module:
    """``net`` (a FlatDenoiser) without every fifth of its inner blocks."""
    weaker = copy.deepcopy(net)
    blocks = [*weaker.get_submodule("blocks").children()]
    weaker.blocks = nn.ModuleList(block for number, block in enumerate(blocks) if number % 5 != 2)
    return weaker


def read_batch(folder: Path, crop: int, limit: int) -> Tensor:
    """Central squares of the first images of a folder, (B, 3, crop, crop) in [0, 1]."""
    images = []
    for path in list_images(folder)[:limit]:
        image = read_rgb(path)
        top, left = ((side - crop) // 2 for side in image.shape[:2])
        images.append(torch.from_numpy(image[top : top + crop, left : left + crop].copy()).permute(2, 0, 1))
    return torch.stack(images).float() / 255.0


@torch.no_grad()
def run(args: argparse.Namespace) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    pipeline = RestorationPipeline.from_pretrained(args.model, "cpu", "float32")
    denoiser, codec = pipeline.denoiser, pipeline.codec
    gt = read_batch(args.gt, args.crop, args.limit)
    lq = read_batch(args.lq, args.crop // codec.scale, args.limit)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(codec.latent_shape(lq), generator=generator)
    cond = codec.condition(lq)
    cond_blurred = codec.condition(blurred(lq))
    cond_noised = codec.condition((lq + NOISE * torch.randn(lq.shape, generator=generator)).clamp(0, 1))
    weaker = Denoiser(fewer_blocks(denoiser.net), denoiser.process, denoiser.prediction_type)
    guides: dict[str, Guide] = {
        "no condition": lambda x_t, t: denoiser(x_t, t, None),
        "blurred lq": lambda x_t, t: denoiser(x_t, t, cond_blurred),
        "noised lq": lambda x_t, t: denoiser(x_t, t, cond_noised),
        "fewer blocks": lambda x_t, t: weaker(x_t, t, cond),
    }
    lpips, effnet = build_lpips("alex", torch.device("cpu")), build_efficientnet("cpu", "lite0")
    luma = torch.tensor(LUMA).view(3, 1, 1)

    def measured(teacher: Denoiser, num_steps: int) -> str:
        times = denoiser.process.times(num_steps, noise.device)
        x0 = sample_ode(teacher, noise * denoiser.process.sigma(times[0]), cond, times)
        sr = (codec.decode(x0, lq).clamp(0, 1) * 255).round() / 255
        error = ((sr - gt) * luma).sum(dim=1)[:, 4:-4, 4:-4].square().mean(dim=(1, 2))
        psnr = (10 * torch.log10(255.0**2 / error)).mean()
        return f"{psnr:.2f} | {lpips(sr, gt).mean():.3f} | {effnet(sr, gt).mean():.2f}"

    say("| steps | weaker estimate | w | PSNR-Y | LPIPS-Alex | EffNet |\n|---|---|---|---|---|---|")
    for num_steps in args.steps:
        say(f"| {num_steps} | none | 1 | {measured(denoiser, num_steps)} |")
        for name, guide in guides.items():
            for scale in SCALES:
                say(f"| {num_steps} | {name} | {scale} | {measured(Compared(denoiser, guide, scale), num_steps)} |")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--gt", type=Path, required=True, help="folder of ground truth")
    parser.add_argument("--lq", type=Path, required=True, help="folder of low-quality images of the same names")
    parser.add_argument("--model", default="x4-real-teacher", help="released teacher, or file (default: %(default)s)")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 10], help="numbers of steps (default: 1 4 10)")
    parser.add_argument("--crop", type=int, default=256, help="side of the ground truth's crops (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=8, help="number of images (default: %(default)s)")
    args = parser.parse_args(argv)
    return run_command(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
