"""``amd-restore video``: restore a video frame by frame, by ffmpeg; sound, subtitles, timing and colours are kept.

All frames share one noise, which keeps flicker down. Started again, the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amd_restore.apps.cli.parser import add_control, add_machine, add_model, add_size, number
from amd_restore.apps.video import FFmpeg, restore_video
from amd_restore.apps.video.encoding import CODECS, choose_codec
from amd_restore.apps.video.restore import SEGMENT, Encoding
from amd_restore.apps.video.work_folder import remove_leftovers
from amd_restore.errors import AMDRestoreError, Parser, note, run_command, say

if TYPE_CHECKING:
    from amd_restore.apps.video.clip import Frame


def build_parser() -> argparse.ArgumentParser:
    """Parser of ``amd-restore video``."""
    parser = Parser(prog="amd-restore video", description=__doc__)
    add = parser.add_argument
    add("-i", "--input", type=Path, required=True, metavar="FILE", help="any video that ffmpeg reads")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="a name in .mp4, .mkv, .mov or .webm")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--resume", action="store_true", help="the default: go on where the same command was stopped")
    choice.add_argument("--overwrite", action="store_true", help="make an output that exists anew")
    add_size(parser.add_argument_group("size of the output").add_argument)
    add_model(parser.add_argument_group("model and sample").add_argument)
    add_control(parser.add_argument_group("control").add_argument)
    _add_encoding(parser.add_argument_group("encoding").add_argument)
    add_machine(parser.add_argument_group("machine").add_argument)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    interrupted = "interrupted; the same command goes on from there"
    return run_command(lambda: run(options), options.debug, "amd-restore video", interrupted)


def run(options: argparse.Namespace) -> None:
    """Restore the video, unless its output is there.

    Raises:
        AMDRestoreError: anything that prevents the output.
    """
    from tqdm import tqdm

    source, target = options.input, options.output
    choose_codec(target, options.codec)
    if target.is_file() and not options.overwrite:
        remove_leftovers(target)
        say(f"{target}: exists and is kept; --overwrite makes it anew")
        return
    ffmpeg = FFmpeg(options.ffmpeg)
    if not source.is_file():  # before the network is loaded
        raise AMDRestoreError(f"{source}: {'is a folder' if source.is_dir() else 'no such file'}; name one video")
    restore, recipe = frame_restorer(options)
    encoding = Encoding(options.codec, options.crf, options.segment)
    with tqdm(unit="frame", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            if bar.total is None:
                bar.initial = bar.n = done  # frames of an earlier run must not flatter the rate
                bar.reset(total)
                bar.initial = bar.n = done
            bar.update(done - bar.n)

        summary = restore_video(source, target, restore, recipe, encoding, ffmpeg, progress, note)
    again = (
        f", {summary.frames - summary.restored} of them by an earlier run" if summary.restored < summary.frames else ""
    )
    damage = f"; the input is damaged ({summary.complaints} complaints)" if summary.complaints else ""
    say(f"{target}: {summary.frames} frame{'s' * (summary.frames != 1)}{again}, {summary.seconds:.1f} s{damage}")


def frame_restorer(options: argparse.Namespace) -> tuple[Callable[[Frame], Frame], dict[str, Any]]:
    """The function that restores one frame, and what its results depend on.

    Raises:
        AMDRestoreError: no such weights or device.
    """
    import hashlib

    from amd_restore.apps.cli.parser import settings_of
    from amd_restore.apps.files.work import Work, shape_of
    from amd_restore.weights import DEFAULT_MODEL, resolve_weights

    weights = resolve_weights(options.model or DEFAULT_MODEL)
    settings = settings_of(options)
    work = Work(settings)
    note(work.advice)

    def restore(frame: Frame) -> Frame:
        need = work.need(shape_of(frame))
        work.check_memory(need, frame.shape[:2])
        work.reserve(need.beside)
        # Always sample 0: fresh noise would flicker.
        return work.resized(work.one(frame, 0, None), frame)

    pipeline = work.pipeline
    recipe = settings.record() | {
        "model": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "steps": settings.steps or pipeline.header.default_steps,
        "threads": None,  # have no say in the pixels
        "device": str(pipeline.device),
        "dtype": f"{settings.dtype} {pipeline.dtype}",
    }
    return restore, recipe


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
