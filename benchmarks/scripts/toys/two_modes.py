"""Does Adaptive Matching Distillation help where plain DMD loses a mode or stalls? A toy in which everything is known.

    python benchmarks/scripts/toys/two_modes.py                      # all settings, ten seeds: table and figure
    python benchmarks/scripts/toys/two_modes.py --only stall --seeds 3 --no_write

Cost: about three minutes on one thread. The same command gives the same numbers on the same machine.
Result: `benchmarks/two_modes/two_modes.md` (its table is written by this program) and `docs/images/two_modes.png`.

The data are one number per "image", drawn from two Gaussians of deviation 0.4 at -2 and 2, half of the mass each. The
student is a small network from noise to a sample, the fake teacher a small network that learns to denoise the student's
samples and, as in a real run, starts as a copy of a network trained on the data. The real teacher is one of three:

    exact       the posterior mean of the two Gaussians, in closed form;
    learnt      the network from which the fake teacher starts, frozen;
    unreliable  exact where it has seen data, the mean of all data (0) elsewhere: u exact + (1 - u) 0 with the trust
                u = sigmoid(2 (log p_t(x_t) + 4)), at t = 0 one half at 2.6 deviations from a mode and 0.08 at 3.

Everything between network and optimiser comes from `amd_restore.losses`; nothing is written anew here.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amd_restore.diffusion import RectifiedFlow
from amd_restore.losses import (
    denoising_loss,
    group_advantage,
    matching_direction,
    normalizer,
    score_adaptation,
    sharpening_weight,
    surrogate_loss,
)

PROCESS = RectifiedFlow()
MODES, STD = (-2.0, 2.0), 0.4
UNCONDITIONAL_STD = math.sqrt(2.0**2 + STD**2)  # one Gaussian with the mean and deviation of the two
LOW = math.log(0.5) - math.log(STD * math.sqrt(2 * math.pi)) - 4.5  # log density three deviations from a mode: -5.20
T_MIN = 0.02
BATCH = 128  # samples per update and seed
UPDATES, EVERY = 800, 25  # student updates, and the interval of measurements
MEASURES = ("left", "right", "low", "w1")
Teacher = Literal["exact", "learnt", "unreliable"]


@dataclass(frozen=True)
class Method:
    """What is done with the reward; both strengths None is plain DMD, which computes no advantage at all."""

    name: str
    adaptation: float | None = None
    sharpening: float | None = None
    reverse: bool = False  # a probe: score adaptation with the sign of the advantage turned


DMD = Method("DMD")
FOUR = (DMD, Method("+ adaptation", 0.5, 0.0), Method("+ sharpening", 0.0, 0.5), Method("AMD", 0.5, 0.5))
TWO = (DMD, FOUR[-1])
STRONG = (
    Method("+ adaptation, s = 0.9", 0.9, 0.0),
    Method("+ sharpening, tau = 1", 0.0, 1.0),
    Method("AMD, s = 0.9, tau = 1", 0.9, 1.0),
    Method("+ adaptation reversed", 0.5, 0.0, reverse=True),
)


@dataclass(frozen=True)
class Setting:
    """One world, shared by all methods that are compared in it.

    Attributes:
        title: what the table calls it.
        start: mean and deviation of the student's samples before the first update.
        t_max: greatest time at which the teachers are compared.
        fake_updates: updates of the fake teacher per update of the student.
        lr_fake: learning rate of the fake teacher; the student's is 1e-3.
        reward: ``density`` is the log density of the data, ``right`` is minus the distance from the right mode.
        guidance: w; the unconditional teacher is exact, for one Gaussian with the data's mean and deviation.
    """

    title: str
    start: tuple[float, float] = (0.0, 0.3)
    teacher: Teacher = "learnt"
    t_max: float = 0.98
    fake_updates: int = 2
    lr_fake: float = 2e-3
    group_size: int = 4
    reward: Literal["density", "right"] = "density"
    guidance: float = 1.0
    methods: tuple[Method, ...] = FOUR


STALL = Setting("unreliable teacher, t to 0.4", teacher="unreliable", t_max=0.4)
SETTINGS = {
    "recipe": Setting("learnt teacher, start between the modes"),
    "unreliable": Setting("unreliable teacher", teacher="unreliable"),
    "stall": replace(STALL, methods=FOUR + STRONG),
    "group_2": replace(STALL, title="the same, groups of 2", group_size=2, methods=TWO),
    "group_16": replace(STALL, title="the same, groups of 16", group_size=16, methods=TWO),
    "stall_lag": replace(STALL, title="the same, lagging fake teacher", fake_updates=1, lr_fake=3e-4),
    "stall_guidance": replace(STALL, title="the same, guidance 2", guidance=2.0),
    "guidance": Setting("exact teacher, guidance 2", teacher="exact", guidance=2.0),
    "one_mode": Setting("learnt teacher, t to 0.4, start on the left mode", start=(-2.0, 1.0), t_max=0.4),
    "one_mode_lag": Setting("start on the left mode, lagging fake teacher", (-2.0, 0.3), fake_updates=1, lr_fake=3e-4),
    "biased": Setting("learnt teacher, biased reward", reward="right"),
    "stall_biased": replace(STALL, title="unreliable teacher, t to 0.4, biased reward", reward="right"),
}


@dataclass(frozen=True)
class Run:
    """History (times, measures, seeds) in the order of ``MEASURES``, and the last samples (seeds, N)."""

    history: NDArray[np.float64]
    samples: NDArray[np.float64]


class Networks(nn.Module):
    """One small perceptron per seed, evaluated together; the last layer starts at zero.

    Args:
        generators: one per seed.
        inputs: features of a sample.
    """

    def __init__(self, generators: list[torch.Generator], inputs: int, hidden: int = 32, layers: int = 2) -> None:
        super().__init__()
        sizes = [inputs, *[hidden] * layers, 1]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for index, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            gain = 0.0 if index == layers else (2.0 if index == 0 else 1.4) / math.sqrt(fan_in)
            drawn = [torch.randn(fan_in + 1, fan_out, generator=g) for g in generators]
            self.weights.append(nn.Parameter(gain * torch.stack([d[:-1] for d in drawn])))
            self.biases.append(nn.Parameter(float(gain > 0) * torch.stack([d[-1:] for d in drawn])))

    def forward(self, features: Tensor) -> Tensor:
        """Features (seeds, N, inputs) -> one number each, (seeds, N)."""
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            features = torch.baddbmm(bias, features if index == 0 else nn.functional.silu(features), weight)
        return features.squeeze(2)


class Draws:
    """Random numbers of shape (seeds, n); those of a seed do not depend on which others there are."""

    def __init__(self, seeds: list[int], stream: int) -> None:
        self.generators = [torch.Generator().manual_seed(1000 * seed + stream) for seed in seeds]

    def normal(self, n: int = BATCH) -> Tensor:
        """Standard normal."""
        return torch.stack([torch.randn(n, generator=g) for g in self.generators])

    def uniform(self, low: float, high: float, n: int = BATCH) -> Tensor:
        """Uniform on [low, high)."""
        return low + (high - low) * torch.stack([torch.rand(n, generator=g) for g in self.generators])


def images(values: Tensor) -> Tensor:
    """(seeds, N) -> (seeds * N, 1, 1, 1), the shape that the losses expect."""
    return values.reshape(-1, 1, 1, 1)


def noised(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """State x_t, all (seeds, N)."""
    return PROCESS.add_noise(images(x0), images(noise), t.flatten()).reshape(x0.shape)


# ---- the teachers ---------------------------------------------------------------------------------------------------


def _log_parts(x_t: Tensor, t: Tensor, modes: tuple[float, ...], std: float) -> tuple[Tensor, Tensor]:
    alpha, variance = PROCESS.alpha(t), (PROCESS.alpha(t) * std) ** 2 + PROCESS.sigma(t) ** 2
    parts = [-0.5 * ((x_t - alpha * mode) ** 2 / variance + torch.log(2 * math.pi * variance)) for mode in modes]
    return torch.stack(parts) - math.log(len(modes)), alpha * std**2 / variance


def log_density(x: Tensor, t: Tensor | None = None) -> Tensor:
    """log p_t of the noised data; ``t`` None is the data themselves."""
    return _log_parts(x, torch.zeros_like(x) if t is None else t, MODES, STD)[0].logsumexp(0)


def posterior_mean(x_t: Tensor, t: Tensor, modes: tuple[float, ...] = MODES, std: float = STD) -> Tensor:
    """E[x0 | x_t] of equally likely Gaussians."""
    parts, gain = _log_parts(x_t, t, modes, std)
    alpha = PROCESS.alpha(t)
    means = torch.stack([mode + gain * (x_t - alpha * mode) for mode in modes])
    return (parts.softmax(0) * means).sum(0)


def denoise(net: Networks, x_t: Tensor, t: Tensor) -> Tensor:
    """Estimate of x0 by a network that predicts v, all (seeds, N)."""
    features = [x_t * PROCESS.input_scale(t), 2 * t - 1, t.clamp_min(T_MIN).log()]
    v = net(torch.stack(features, dim=2))
    return PROCESS.to_x0(images(v), images(x_t), t.flatten(), "v").reshape(x_t.shape)


def real_score(setting: Setting, learnt: Networks, x_t: Tensor, t: Tensor) -> Tensor:
    """The real teacher's estimate with the condition."""
    if setting.teacher == "learnt":
        return denoise(learnt, x_t, t)
    exact = posterior_mean(x_t, t)
    if setting.teacher == "exact":
        return exact
    return torch.sigmoid(2.0 * (log_density(x_t, t) + 4.0)) * exact


def fake_loss(net: Networks, x0: Tensor, draws: Draws, weight: Tensor | None) -> Tensor:
    """Denoising loss, summed over the seeds, so that each seed's network learns at its own pace."""
    t = draws.uniform(T_MIN, 1.0)
    estimate = denoise(net, noised(x0, draws.normal(), t), t)
    return len(x0) * denoising_loss(images(estimate), images(x0), PROCESS.loss_weight(t.flatten()), weight)


def train_on_data(seeds: list[int], updates: int = 1500) -> Networks:
    """Denoisers of the data, one per seed: the learnt teacher and the start of the fake teacher."""
    draws = Draws(seeds, 1)
    net = Networks(draws.generators, 3)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - update / updates)
        mode = torch.where(draws.uniform(0.0, 1.0) < 0.5, *MODES)
        _step(optimizer, fake_loss(net, mode + STD * draws.normal(), draws, None))
    return net


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


# ---- distillation ---------------------------------------------------------------------------------------------------


def draw_samples(student: Networks, z: Tensor, start: tuple[float, float]) -> Tensor:
    """The student in one step: noise (seeds, N) -> samples (seeds, N)."""
    return start[0] + start[1] * z + student(z.unsqueeze(2))


def rewards(setting: Setting, x: Tensor) -> Tensor:
    """(seeds, N), higher is better."""
    return log_density(x) if setting.reward == "density" else -(x - MODES[1]).abs()


def direction(
    setting: Setting, method: Method, x0: Tensor, draws: Draws, fake: Networks, learnt: Networks, a: Tensor | None
) -> tuple[Tensor, Tensor]:
    """H of eq. 10 and the normaliser, as images.

    An image here is one number, and |x - x0_real| of one number is far noisier than the mean over an image: the
    normaliser is averaged over the batch of each seed.
    """
    t = draws.uniform(T_MIN, setting.t_max)
    x_t = noised(x0, draws.normal(), t)
    real, uncond = real_score(setting, learnt, x_t, t), None
    if setting.guidance != 1.0:
        uncond = images(posterior_mean(x_t, t, (0.0,), UNCONDITIONAL_STD))
    alpha, beta = None, None
    if a is not None and method.adaptation is not None:
        alpha, beta = score_adaptation(-a if method.reverse else a, method.adaptation)
    step = matching_direction(images(real), images(denoise(fake, x_t, t)), uncond, setting.guidance, alpha, beta)
    norm = normalizer(images(x0), images(real)).reshape(x0.shape).mean(1, keepdim=True).expand(x0.shape)
    return step, images(norm)


def distil(setting: Setting, method: Method, learnt: Networks, seeds: list[int], updates: int = UPDATES) -> Run:
    """Distil the teacher into one student per seed; the draws of a seed are the same for every method."""
    draws, fake = Draws(seeds, 2), copy.deepcopy(learnt)
    student = Networks(draws.generators, 1)
    optimizer_g = torch.optim.Adam(student.parameters(), lr=1e-3, betas=(0.0, 0.99))
    optimizer_fake = torch.optim.Adam(fake.parameters(), lr=setting.lr_fake, betas=(0.0, 0.99))
    history = [measure(student, setting.start, len(seeds))[0]]
    for update in range(1, updates + 1):
        for turn in range(setting.fake_updates):
            with torch.set_grad_enabled(turn == 0):
                x0 = draw_samples(student, draws.normal(), setting.start)
            a, sharp = None, None
            if method.adaptation is not None and method.sharpening is not None:
                a = group_advantage(rewards(setting, x0.detach()).flatten(), setting.group_size)
                sharp = torch.cat([sharpening_weight(part, method.sharpening) for part in a.chunk(len(seeds))])
            if turn == 0:
                with torch.no_grad():
                    step, norm = direction(setting, method, x0, draws, fake, learnt, a)
                _step(optimizer_g, len(seeds) * surrogate_loss(images(x0), step, norm))
            _step(optimizer_fake, fake_loss(fake, x0.detach(), draws, sharp))
        if update % EVERY == 0 or update == updates:
            history.append(measure(student, setting.start, len(seeds))[0])
    return Run(np.stack(history), measure(student, setting.start, len(seeds))[1])


def quantiles(n: int) -> Tensor:
    """n evenly spaced quantiles of the data, float64."""
    grid = torch.linspace(-6.0, 6.0, 24001, dtype=torch.float64)
    cumulative = log_density(grid).exp().cumsum(0)
    levels = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return grid[torch.searchsorted(cumulative / cumulative[-1], levels)]


@torch.no_grad()
def measure(
    student: Networks, start: tuple[float, float], seeds: int, n: int = 2048
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measures (4, seeds), see ``MEASURES``, and the samples (seeds, n) at evenly spaced quantiles of the noise.

    The first three are shares that sum to one: the left mode, the right mode, and log densities below ``LOW``. The
    fourth is the Wasserstein-1 distance to the data.
    """
    levels = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    z = (math.sqrt(2.0) * torch.erfinv(2 * levels - 1)).float()
    x = draw_samples(student, z.expand(seeds, -1), start).double()
    low = log_density(x) < LOW
    shares = [(side & ~low).double().mean(1) for side in (x < 0, x >= 0)]
    distance = (x.sort(1).values - quantiles(n)).abs().mean(1)
    return torch.stack([*shares, low.double().mean(1), distance]).numpy(), x.numpy()


def run_all(names: list[str], seeds: list[int], updates: int) -> dict[str, dict[str, Run]]:
    """Every method of every named setting, by name; says on the error stream what it is doing."""
    learnt = train_on_data(seeds)
    results: dict[str, dict[str, Run]] = {}
    for name in names:
        for method in SETTINGS[name].methods:
            begin = time.perf_counter()
            results.setdefault(name, {})[method.name] = distil(SETTINGS[name], method, learnt, seeds, updates)
            sys.stderr.write(f"{name}, {method.name}: {time.perf_counter() - begin:.1f} s\n")
    return results


def main() -> None:
    """Run, print the table, and write it and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0 to this minus one")
    parser.add_argument("--updates", type=int, default=UPDATES, help="updates of the student")
    parser.add_argument("--no_write", action="store_true", help="only print")
    root = Path(__file__).resolve().parents[3]
    parser.add_argument("--table", type=Path, default=root / "benchmarks/two_modes/two_modes.md")
    parser.add_argument("--figure", type=Path, default=root / "docs/images/two_modes.png")
    options = parser.parse_args()
    if options.seeds < 1 or options.updates < 1:
        parser.error("--seeds and --updates must be at least 1")
    if options.only != list(SETTINGS) and not options.no_write:
        parser.error("the table and the figure show all settings: leave out --only, or add --no_write")
    torch.set_num_threads(1)
    import two_modes_report as report  # beside this file; needs matplotlib for the figure only

    begin = time.perf_counter()
    results = run_all(options.only, list(range(options.seeds)), options.updates)
    sys.stderr.write(f"{time.perf_counter() - begin:.0f} s in all\n")
    titles = {name: SETTINGS[name].title for name in options.only}
    table = report.table(results, titles)
    sys.stdout.write(table)
    if not options.no_write:
        report.write_table(table, options.table)
        report.figure(results, options.figure, EVERY)


if __name__ == "__main__":
    main()
