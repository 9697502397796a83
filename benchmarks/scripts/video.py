"""Flicker of restored videos, as a Markdown table: one noise for all frames beside fresh noise for each.

    python benchmarks/scripts/video.py [--frames 8] [--steps 1 2 4] [--output FILE.md]

Clips are made of the photographs in lowres/, which stand for the scene: a window of it is shrunk by four with
antialiasing and its 8-bit result is the frame. *Still* is one window with other sensor noise in every frame (standard
deviation 1.5/255). *Pan* moves the window by one pixel of the scene, that is a quarter of a frame's pixel, a frame;
*fast pan* by four. The noise field stays where it is on the screen; the scene moves below it.

Flicker is the mean absolute difference of neighbouring outputs, in 1/255; of the pans, after moving one by the known
motion, so that a perfect output has none. Bicubic enlargement, which flickers too, stands beside.
Timing plays no part.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from amd_restore.apps.video.clip import Frame
from amd_restore.errors import run_command
from amd_restore.pipeline import RestorationPipeline

LOWRES = Path(__file__).resolve().parents[2] / "lowres"
HEIGHT, WIDTH, SCALE, MARGIN = 96, 128, 4, 8
CLIPS = {"still": 0, "pan": 1, "fast pan": 4}  # pixels of the scene that the window moves a frame
SENSOR_NOISE = 1.5 / 255


def make_clip(scene: Image.Image, shift: int, frames: int) -> list[Frame]:
    """Frames of HEIGHT / 4 x WIDTH / 4 pixels, uint8."""
    generator = np.random.default_rng(0)
    clip = []
    for i in range(frames):
        window = scene.crop((i * shift, 0, i * shift + WIDTH, HEIGHT))
        pixels = np.asarray(window.resize((WIDTH // SCALE, HEIGHT // SCALE), Image.Resampling.BICUBIC)) / 255
        if not shift:
            pixels = pixels + generator.normal(0, SENSOR_NOISE, pixels.shape)
        clip.append((pixels.clip(0, 1) * 255).round().astype(np.uint8))
    return clip


def bicubic(frame: Frame, index: int) -> Frame:
    """What is there without restoring."""
    return np.asarray(Image.fromarray(frame).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def flicker(frames: list[Frame], shift: int) -> float:
    """Mean absolute difference of neighbours along the motion, borders aside, in 1/255."""
    differences = []
    for before, after in zip(frames, frames[1:], strict=False):
        moved, still = before[:, shift:].astype(float), after[:, : WIDTH - shift].astype(float)
        inside = np.s_[MARGIN:-MARGIN, MARGIN:-MARGIN]
        differences.append(np.abs(moved[inside] - still[inside]).mean())
    return float(np.mean(differences))


def methods(pipeline: RestorationPipeline, steps: int) -> dict[str, Callable[[Frame, int], Frame]]:
    """Shared and fresh noise."""
    return {
        "one noise": lambda frame, index: pipeline.restore_image(frame, num_steps=steps, seed=0),
        "fresh noise": lambda frame, index: pipeline.restore_image(frame, num_steps=steps, seed=index),
    }


def measure(method: Callable[[Frame, int], Frame], shift: int, frames: int) -> float:
    """Mean flicker over the photographs."""
    values = []
    for file in sorted(LOWRES.glob("*.png")):
        clip = make_clip(Image.open(file).convert("RGB"), shift, frames)
        values.append(flicker([method(frame, i) for i, frame in enumerate(clip)], shift))
    return float(np.mean(values))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="x4-classical", help="default: %(default)s")
    parser.add_argument(
        "--frames", type=int, default=8, choices=range(2, 11), metavar="2..10", help="of each clip (default: 8)"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="default: standard output")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipeline = RestorationPipeline.from_pretrained(options.model, "cpu", "float32")
    base = {name: measure(bicubic, shift, options.frames) for name, shift in CLIPS.items()}
    lines = [
        f"# Flicker of restored videos, {datetime.date.today()}",
        "",
        f"`python benchmarks/scripts/video.py --frames {options.frames} --steps {' '.join(map(str, options.steps))}`,"
        f" model {options.model}, {len(list(LOWRES.glob('*.png')))} scenes, float32, CPU.",
        "Mean absolute difference of neighbouring frames along the known motion, in 1/255; in brackets, relative to"
        " bicubic. Clips: see `benchmarks/scripts/video.py`.",
        "",
        "| | " + " | ".join(CLIPS) + " |",
        "|---|" + "---:|" * len(CLIPS),
        "| bicubic | " + " | ".join(f"{value:.2f}" for value in base.values()) + " |",
    ]
    for steps in options.steps:
        for name, method in methods(pipeline, steps).items():
            cells = []
            for clip, shift in CLIPS.items():
                value = measure(method, shift, options.frames)
                cells.append(f"{value:.2f} ({value / base[clip]:.1f}x)" if base[clip] > 0.005 else f"{value:.2f}")
            lines.append(f"| {steps} step{'s' if steps > 1 else ''}, {name} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    sys.exit(run_command(main))
