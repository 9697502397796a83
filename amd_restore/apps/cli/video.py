"""``amd-restore video``: restore a video frame by frame with ffmpeg; keeps sound, subtitles, timing and colours.

All frames share one noise, which reduces flicker. The same command resumes an interrupted run.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from amd_restore.apps.cli.parser import add_control, add_machine, add_model, add_size, number
from amd_restore.apps.video import FFmpeg, restore_video
from amd_restore.apps.video.encoding import CODECS, choose_codec
from amd_restore.apps.video.restore import SEGMENT, Encoding
from amd_restore.apps.video.work_folder import remove_leftovers
from amd_restore.atomic import path_option
from amd_restore.errors import AMDRestoreError, Parser, note, run_command, say

if TYPE_CHECKING:
    from amd_restore.apps.video.clip import Frame


class _VideoParser(Parser):
    """A parser that names a missing ffmpeg first, which takes longer to mend than an option."""

    def error(self, message: str) -> NoReturn:
        try:
            FFmpeg()
        except AMDRestoreError as error:
            message = f"{error}; then: {message}"
        super().error(message)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of ``amd-restore video``."""
    parser = _VideoParser(prog="amd-restore video", description=__doc__)
    add = parser.add_argument
    add(
        "-i",
        "--input",
        type=path_option,
        required=True,
        metavar="FILE",
        help="input video, in any format that ffmpeg reads",
    )
    add(
        "-o", "--output", type=path_option, required=True, metavar="FILE", help="output file: .mp4, .mkv, .mov or .webm"
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--resume", action="store_true", help="resume an interrupted run of the same command (default)")
    choice.add_argument("--overwrite", action="store_true", help="replace an existing output")
    add_size(parser.add_argument_group("size of the output").add_argument)
    add_model(parser.add_argument_group("model and sample").add_argument)
    add_control(parser.add_argument_group("control").add_argument)
    _add_encoding(parser.add_argument_group("encoding").add_argument)
    add_machine(parser.add_argument_group("machine").add_argument)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    options = build_parser().parse_args(arguments)
    interrupted = "interrupted; the same command goes on from there"
    return run_command(lambda: run(options), options.debug, "amd-restore video", interrupted)


def run(options: argparse.Namespace) -> None:
    """Restore the video unless its output exists.

    Raises:
        AMDRestoreError: the output cannot be made.
    """
    from tqdm import tqdm

    source, target = options.input, options.output
    choose_codec(target, options.codec)
    if target.is_file() and not options.overwrite:
        remove_leftovers(target)
        say(f"{target}: exists and is kept; --overwrite makes it anew")
        return
    ffmpeg = FFmpeg(options.ffmpeg)
    if not source.is_file():  # Check this before loading the network.
        raise AMDRestoreError(f"{source}: {'is a folder' if source.is_dir() else 'no such file'}; name one video")
    restore, recipe = frame_restorer(options)
    encoding = Encoding(options.codec, options.crf, options.segment)
    with tqdm(unit="frame", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            if bar.total is None:
                bar.reset(total)
                bar.initial = bar.n = done  # Frames of an earlier run must not count in the rate.
            bar.update(done - bar.n)

        summary = restore_video(source, target, restore, recipe, encoding, ffmpeg, progress, note)
    again = (
        f", {summary.frames - summary.restored} of them by an earlier run" if summary.restored < summary.frames else ""
    )
    count = summary.complaints
    damage = f"; the input is damaged ({count} complaint{'s' * (count > 1)})" if count else ""
    say(f"{target}: {summary.frames} frame{'s' * (summary.frames != 1)}{again}, {summary.seconds:.1f} s{damage}")


def frame_restorer(options: argparse.Namespace) -> tuple[Callable[[Frame], Frame], dict[str, Any]]:
    """Return the function that restores one frame, and the settings that determine its results.

    Raises:
        AMDRestoreError: no such weights or device.
    """
    import hashlib

    from amd_restore.apps.cli.parser import settings_of
    from amd_restore.apps.files.work import Work, shape_of
    from amd_restore.pipeline import AUTO
    from amd_restore.weights import DEFAULT_MODEL, resolve_weights

    name = options.model or DEFAULT_MODEL
    if name == AUTO:
        raise AMDRestoreError("--model auto chooses for each image, and frames need the same; name a model")
    weights, settings = resolve_weights(name), dataclasses.replace(settings_of(options), model=name)
    work = Work(settings)
    note(work.advice)

    def restore(frame: Frame) -> Frame:
        need = work.need(shape_of(frame))
        work.check_memory(need, frame.shape[:2])
        work.reserve(need.beside)
        # All frames use sample 0, because new noise for each frame would flicker.
        return work.resized(work.one(frame, 0, None), frame)

    pipeline = work.pipeline
    recipe = settings.record() | {
        "model": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "steps": settings.steps or pipeline.header.default_steps,
        "threads": None,  # These settings do not change pixels.
        "device": str(pipeline.restorer.device or "cpu"),
        "dtype": f"{settings.dtype} {pipeline.denoiser.dtype}",
    }
    return restore, recipe


def _add_encoding(add: Callable[..., Any]) -> None:
    add("--codec", choices=tuple(CODECS), help="codec; ffv1 is lossless (default: h264, for .webm vp9)")
    add(
        "--crf",
        type=number(0, 63),
        metavar="N",
        help="constant rate factor, lower is better (default: the codec's, 16 for h264)",
    )
    add(
        "--segment",
        type=number(1, 1000),
        default=SEGMENT,
        metavar="N",
        help="frames per saved part; an interruption loses at most one part (default: %(default)s)",
    )
    add(
        "--ffmpeg", metavar="PATH", help="ffmpeg program (default: from the PATH, else from the package imageio-ffmpeg)"
    )
