"""``amd-restore video``: restore a video frame by frame, by ffmpeg; sound, subtitles, timing and colours are kept.

All frames share one noise, which keeps flicker down. Started again, the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amd_restore.cli.console import Console
from amd_restore.cli.parser import Parser, factor, number, size
from amd_restore.errors import AMDRestoreError
from amd_restore.video import FFmpeg, restore_video
from amd_restore.video.encoding import CODECS, choose_codec
from amd_restore.video.restore import SEGMENT, Encoding
from amd_restore.video.work import remove_leftovers

if TYPE_CHECKING:
    from amd_restore.video.clip import Frame

DONE, FAILED, NOT_STARTED, INTERRUPTED = 0, 1, 2, 130


def build_parser() -> argparse.ArgumentParser:
    """Parser of ``amd-restore video``."""
    parser = Parser(prog="amd-restore video", description=__doc__)
    add = parser.add_argument
    add("-i", "--input", type=Path, required=True, metavar="FILE", help="any video that ffmpeg reads")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="a name in .mp4, .mkv, .mov or .webm")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--resume", action="store_true", help="the default: go on where the same command was stopped")
    choice.add_argument("--overwrite", action="store_true", help="make an output that exists anew")
    _add_model(parser.add_argument_group("model, sample and size").add_argument)
    _add_encoding(parser.add_argument_group("encoding").add_argument)
    _add_machine(parser.add_argument_group("machine").add_argument)
    add("--debug", action="store_true", help="show tracebacks")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    console = Console(options.debug)
    try:
        run(options, console)
    except AMDRestoreError as error:
        console.complain(f"amd-restore video: {error}", error)
        return NOT_STARTED
    except KeyboardInterrupt:
        console.complain("interrupted; the same command goes on from there")
        return INTERRUPTED
    return DONE


def run(options: argparse.Namespace, console: Console) -> None:
    """Restore the video, unless its output is there.

    Raises:
        AMDRestoreError: anything that prevents the output.
    """
    from tqdm import tqdm

    source, target = options.input, options.output
    choose_codec(target, options.codec)
    if target.is_file() and not options.overwrite:
        remove_leftovers(target)
        console.say(f"{target}: exists and is kept; --overwrite makes it anew")
        return
    ffmpeg = FFmpeg(options.ffmpeg)
    if not source.is_file():  # before the network is loaded
        raise AMDRestoreError(f"{source}: no such file; name one video")
    restore, recipe = frame_restorer(options, console)
    encoding = Encoding(options.codec, options.crf, options.segment)
    with tqdm(unit="frame", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            if bar.total is None:
                bar.initial = bar.n = done  # frames of an earlier run must not flatter the rate
                bar.reset(total)
                bar.initial = bar.n = done
            bar.update(done - bar.n)

        summary = restore_video(source, target, restore, recipe, encoding, ffmpeg, progress, console.note)
    again = (
        f", {summary.frames - summary.restored} of them by an earlier run" if summary.restored < summary.frames else ""
    )
    console.say(f"{target}: {summary.frames} frames{again}, {summary.seconds:.1f} s")


def frame_restorer(options: argparse.Namespace, console: Console) -> tuple[Callable[[Frame], Frame], dict[str, Any]]:
    """The function that restores one frame, and what its results depend on.

    Raises:
        AMDRestoreError: no such weights or device.
    """
    import hashlib

    import torch

    from amd_restore.checkpoint import DEFAULT_MODEL, resolve_weights
    from amd_restore.pipeline import RestorationPipeline
    from amd_restore.sizing import output_size, resize

    if options.threads:
        torch.set_num_threads(options.threads)
    weights = resolve_weights(options.model or DEFAULT_MODEL)
    dtype: str = {"fp32": "float32", "bf16": "bfloat16"}.get(options.dtype, "auto")
    pipeline = RestorationPipeline.from_pretrained(weights, options.device, dtype)
    steps, trained = options.steps or pipeline.header.default_steps, pipeline.header.steps
    if steps not in trained:
        known = ", ".join(map(str, trained))
        console.note(f"{pipeline.header.name} was made for {known} steps, not {steps}; expect lesser quality")

    def restore(frame: Frame) -> Frame:
        sr = pipeline.restore_image(
            frame,
            num_steps=steps,
            seed=options.seed,  # the same for all frames: fresh noise would flicker
            tile=options.tile,
            max_memory=options.max_memory,
        )
        height, width = frame.shape[:2]
        wanted = output_size(height, width, pipeline.scale, options.outscale, options.max_side, options.width)
        return resize(sr, wanted)

    recipe = {name: getattr(options, name) for name in ("seed", "outscale", "max_side", "width", "tile", "max_memory")}
    recipe |= {
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "steps": steps,
        "device": str(pipeline.device),
        "dtype": str(pipeline.dtype),
    }
    return restore, recipe


def _add_model(add: Callable[..., Any]) -> None:
    add("--model", metavar="NAME", help="released name, .safetensors file or folder (default: the recommended one)")
    add("--steps", type=number(1), metavar="N", help="diffusion steps: 1, 2 or 4 (default: the model's)")
    add("--seed", type=int, default=0, metavar="N", help="another seed, other fine detail (default: %(default)s)")
    add("-s", "--outscale", type=factor, metavar="X", help="output size / input size (default: the model's scale)")
    add("--width", type=number(1), metavar="N", help="width of the output in pixels; the height follows")
    add("--max-side", type=number(1), metavar="N", help="shrink an output whose longer side exceeds this")


def _add_encoding(add: Callable[..., Any]) -> None:
    add("--codec", choices=tuple(CODECS), help="default: h264, for .webm vp9; ffv1 is lossless")
    add("--crf", type=number(0, 63), metavar="N", help="quality, lower is better (default: the codec's, 16 for h264)")
    add(
        "--segment",
        type=number(1, 1000),
        default=SEGMENT,
        metavar="N",
        help="frames that are encoded and kept together; a kill loses at most these (default: %(default)s)",
    )
    add("--ffmpeg", metavar="PATH", help="the program (default: on the PATH, else of the package imageio-ffmpeg)")


def _add_machine(add: Callable[..., Any]) -> None:
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, xpu (default: %(default)s)")
    add("--dtype", choices=("auto", "fp32", "bf16"), default="auto", help="arithmetic (default: what is fast here)")
    add("--threads", type=number(1), metavar="N", help="processor threads (default: torch's choice)")
    add("--max-memory", type=size, metavar="SIZE", help="memory to work in, as 800M or 2G (default: what is free)")
    add("--tile", type=number(0), metavar="N", help="tile side in input pixels; 0 never tiles (default: automatic)")


if __name__ == "__main__":
    sys.exit(main())
