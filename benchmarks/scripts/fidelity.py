"""What the controls cost and bring: ``python benchmarks/scripts/fidelity.py --assets FOLDER [--out FILE.md]``.

Needs the benchmark sets Set5 and, with ``--set14``, Set14 below ``FOLDER/benchmarks`` and the extra ``train``
(metrics). Restores untiled, in float32, on one thread.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amd_restore.benchmark.images import Pair, TestSet
from amd_restore.benchmark.metrics import Measure
from amd_restore.benchmark.options import DatasetOptions
from amd_restore.diffusion import Draw, field_noise, restore_latent
from amd_restore.errors import Parser, run_command
from amd_restore.inference.tta import medoid, orient, restore_oriented, unorient
from amd_restore.pipeline import RestorationPipeline
from amd_restore.postprocess import (
    AdainFix,
    Consistency,
    SampleStatistics,
    WaveletFix,
    downscale,
    expected_error,
    lq_psnr,
)

MODEL = "x4-classical"
FIDELITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
METRICS = ("psnr_y", "lpips_alex", "lpips_squeeze", "consistency")
HEADINGS = ("PSNR-Y ↑", "LPIPS-Alex ↓", "LPIPS-Squeeze ↓", "LQ-PSNR ↑")
DIGITS = (2, 4, 4, 2)
SAMPLES = 8  # for the map, beside one more that is judged by it
CAST = torch.tensor([0.06, -0.02, -0.05]).view(1, 3, 1, 1)


class Restorer:
    """Released weights, untiled; :meth:`restore` leaves the noise in the caller's hands."""

    def __init__(self, name: str) -> None:
        self.pipeline = RestorationPipeline.from_pretrained(name, "cpu", "float32")
        self.header, self.codec, self.denoiser = self.pipeline.header, self.pipeline.codec, self.pipeline.denoiser

    def draw(self, lq: Tensor, seed: int) -> Draw:
        _, channels, height, width = self.codec.latent_shape(lq)
        return lambda step: field_noise(seed, channels, 0, 0, height, width, step)

    @torch.no_grad()
    def restore(self, lq: Tensor, draw: Draw, steps: int) -> Tensor:
        x0 = restore_latent(self.denoiser, self.codec, lq, draw, self.header.recipe(steps))
        return self.codec.decode(x0, lq).clamp(0, 1)

    def __call__(self, lq: Tensor, steps: int = 1, seed: int = 0, fidelity: float = 0.0) -> Tensor:
        return self.pipeline(lq, num_steps=steps, seed=seed, fidelity=fidelity, tile=0)


class Judge:
    """Mean metrics of restored pictures as the cells of a table's row."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs, self.measure = pairs, Measure(METRICS, 4)
        self.lq = [to_tensor(pair.lq) for pair in pairs]

    def row(self, title: str, outputs: Sequence[Tensor]) -> str:
        """``| title | metrics |`` of one picture for each pair."""
        results = [self.measure(to_uint8(sr), pair) for sr, pair in zip(outputs, self.pairs, strict=True)]
        means = (float(np.mean([result[name] for result in results])) for name in METRICS)
        cells = (f"{mean:.{digits}f}" for mean, digits in zip(means, DIGITS, strict=True))
        sys.stderr.write(f"{title}\n")
        return f"| {title} | {' | '.join(cells)} |"

    def table(self, title: str, rows: Sequence[str]) -> str:
        """A table under a heading."""
        head = f"| | {' | '.join(HEADINGS)} |\n|---|{'---|' * len(HEADINGS)}"
        return "\n".join([f"## {title}", "", head, *rows, ""])


def to_tensor(image: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 255


def truth_of(pair: Pair) -> Tensor:
    """Ground truth (1, 3, sH, sW)."""
    assert pair.gt is not None
    return to_tensor(pair.gt)


def to_uint8(image: Tensor) -> np.ndarray:
    """(1, 3, H, W) -> uint8 (H, W, 3), as saving rounds it."""
    return (image.clamp(0, 1) * 255).round().byte()[0].permute(1, 2, 0).numpy()


def fidelity_table(judge: Judge, student: Restorer, teacher: Restorer) -> str:
    """Fidelity by steps, beside the mean of samples and the regression answer of the teacher."""
    rows = []
    for steps, fidelity in itertools.product((1, 2, 4), FIDELITIES):
        title = f"{steps} step{'s' * (steps > 1)}, fidelity {fidelity:g}"
        rows.append(judge.row(title, [student(lq, steps, 0, fidelity) for lq in judge.lq]))
    samples = [torch.stack([student(lq, 1, seed) for seed in range(16)]) for lq in judge.lq]
    for count in (2, 4, 16):
        rows.append(judge.row(f"mean of {count} samples ({count}x the cost)", [one[:count].mean(0) for one in samples]))
    rows.append(judge.row("teacher, 1 step", [teacher(lq) for lq in judge.lq]))
    return judge.table("Fidelity", rows)


def same_bytes(sr: Tensor, lq: Tensor) -> float:
    """Share of the input's bytes that come back when the saved output is scaled down and rounded."""
    small = downscale((sr * 255).round(), 4).round().clamp(0, 255)
    return float((small == (lq * 255).round()).float().mean())


def consistency_table(judge: Judge, student: Restorer) -> str:
    """Rounds of back-projection, at both ends of fidelity; consistency before rounding to bytes, too."""
    rows = []
    for fidelity in (0.0, 1.0):
        outputs = [student(lq, 1, 0, fidelity) for lq in judge.lq]
        for rounds in (0, 1, 2, 3, 4, 6):
            fixed = [Consistency(4, rounds)(sr, lq) if rounds else sr for sr, lq in zip(outputs, judge.lq, strict=True)]
            pairs = list(zip(fixed, judge.lq, strict=True))
            exact = np.mean([float(lq_psnr(sr, lq, 4)) for sr, lq in pairs])
            same = np.mean([same_bytes(sr, lq) for sr, lq in pairs])
            title = f"fidelity {fidelity:g}, rounds: {rounds}; {exact:.1f} dB before rounding, {same:.2%} of bytes back"
            rows.append(judge.row(title, fixed))
    return judge.table("Consistency", rows)


def colour_table(judge: Judge, student: Restorer) -> str:
    """Colour fixes on good output, and on output with a colour cast and less contrast."""
    rows = []
    plain = [student(lq) for lq in judge.lq]
    spoilt = [(0.45 + 0.9 * (sr - 0.45) + CAST).clamp(0, 1) for sr in plain]
    for title, outputs in (("as restored", plain), ("with a cast and 0.9 of the contrast", spoilt)):
        pairs = list(zip(outputs, judge.lq, strict=True))
        rows.append(judge.row(f"{title}, none", outputs))
        rows.append(judge.row(f"{title}, wavelet", [WaveletFix(4)(sr, lq) for sr, lq in pairs]))
        rows.append(judge.row(f"{title}, adain", [AdainFix.of(sr, lq, 4)(sr, lq) for sr, lq in pairs]))
    return judge.table("Colour fix", rows)


def tta_table(judge: Judge, student: Restorer) -> str:
    """Eight orientations with the noise turned with the picture, and with noise of their own."""
    patch = student.codec.patch

    def turned(mode: str) -> list[Tensor]:
        restore: Callable[[Tensor, Draw], Tensor] = functools.partial(student.restore, steps=1)
        return [restore_oriented(restore, lq, student.draw(lq, 0), patch, mode) for lq in judge.lq]

    own = [torch.stack([unorient(student(orient(lq, k), 1, k), k) for k in range(8)]) for lq in judge.lq]
    rows = [
        judge.row("none", [student(lq) for lq in judge.lq]),
        judge.row("mean", turned("mean")),
        judge.row("medoid", turned("medoid")),
        judge.row("mean, each with noise of its own", [one.mean(0) for one in own]),
        judge.row("medoid, each with noise of its own", [medoid(one) for one in own]),
        judge.row("none, fidelity 1", [student(lq, 1, 0, 1.0) for lq in judge.lq]),
        judge.row("mean, fidelity 1", [student.pipeline(lq, fidelity=1.0, tta=True, tile=0) for lq in judge.lq]),
    ]
    return judge.table("Test-time augmentation, 1 step", rows)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, over all pixels."""
    return float(torch.corrcoef(torch.stack([a.ravel(), b.ravel()]))[0, 1])


def uncertainty_table(name: str, pairs: Sequence[Pair], student: Restorer) -> str:
    """How well the map of ``SAMPLES`` samples predicts the error of another sample that it has not seen."""
    lines = ["| picture | correlation | with the local mean error | actual / expected error |", "|---|---|---|---|"]
    figures, expected, actual = [], [], []
    for pair in pairs:
        lq, gt = to_tensor(pair.lq), truth_of(pair)
        statistics = SampleStatistics()
        for seed in range(1, SAMPLES + 1):
            statistics.add(student(lq, 1, seed))
        predicted = expected_error(statistics.std, student.header.error_per_std)
        error = (student(lq) - gt).abs().mean(1, keepdim=True)
        local = torch.nn.functional.avg_pool2d(error, 9, 1, 4, count_include_pad=False)
        correlations = [correlation(predicted, e) for e in (error, local)]
        figures.append((*correlations, float(error.mean() / predicted.mean())))
        lines.append(f"| {pair.name} | " + " | ".join(f"{value:.3f}" for value in figures[-1]) + " |")
        expected.append(predicted.ravel())
        actual.append(error.ravel())
    lines.append("| mean | " + " | ".join(f"{value:.3f}" for value in np.mean(figures, axis=0)) + " |")
    every, error = torch.cat(expected), torch.cat(actual)
    lines += ["", "| pixels by expected error | expected | actual |", "|---|---|---|"]
    for i, tenth in enumerate(every.argsort().chunk(10)):
        lines.append(f"| tenth {i + 1} | {float(every[tenth].mean()):.4f} | {float(error[tenth].mean()):.4f} |")
    sys.stderr.write(f"uncertainty {name}\n")
    note = f"{SAMPLES} samples against the error of one more. The factor of the map was fitted on Set14."
    return "\n".join([f"## Uncertainty, {name}", "", note, "", *lines, ""])


def load_pairs(assets: Path, name: str) -> list[Pair]:
    """Pairs of a benchmark set."""
    folder = assets / "benchmarks" / name
    return list(TestSet(name, DatasetOptions(gt=str(folder / "GTmod4"), lq=str(folder / "LRbicx4")), 4))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = Parser(description=__doc__)
    default = os.environ.get("AMD_RESTORE_ASSETS", "~/.cache/amd_restore")
    parser.add_argument("--assets", type=Path, default=default)
    parser.add_argument("--set14", action="store_true", help="also the map's calibration on Set14 (a minute)")
    parser.add_argument("--only", nargs="+", choices=["fidelity", "consistency", "colour", "tta", "uncertainty"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    student, teacher = Restorer(MODEL), Restorer("x4-classical-teacher")
    pairs = load_pairs(args.assets, "Set5")
    judge = Judge(pairs)
    sections: dict[str, Callable[[], str]] = {
        "fidelity": lambda: fidelity_table(judge, student, teacher),
        "consistency": lambda: consistency_table(judge, student),
        "colour": lambda: colour_table(judge, student),
        "tta": lambda: tta_table(judge, student),
        "uncertainty": lambda: uncertainty_table("Set5", pairs, student),
    }
    intro = (
        f"# Controls, measured {datetime.date.today():%d %B %Y}\n\n"
        f"{MODEL}, Set5, one noise seed (0), untiled, float32; metrics of the saved 8-bit pictures. "
        "LPIPS-Squeeze was a reward of this model, LPIPS-Alex was not.\n"
    )
    parts = [intro] + [build() for name, build in sections.items() if not args.only or name in args.only]
    if args.set14:
        parts.append(uncertainty_table("Set14", load_pairs(args.assets, "Set14"), student))
    text = "\n".join(parts)
    sys.stdout.write(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
