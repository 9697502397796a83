"""Calibration of 8-bit arithmetic: ranges of the values in each convolution.

    python -m amd_restore.backends.calibration --model x4-classical --pictures lowres

writes the ranges of a released model into the package; needed once for each release. Users' own weights are
calibrated by ``amd-restore export --dtype int8 --calibration FOLDER``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amd_restore.arrays import inference_mode
from amd_restore.backends.graph import Ranges
from amd_restore.backends.stored_ranges import RANGES_FOLDER, keep_ranges
from amd_restore.diffusion import field_noise, restore_latent
from amd_restore.errors import AMDRestoreError, Parser, run_command, say
from amd_restore.image_io import SUFFIXES, read_image
from amd_restore.weights import (
    DEFAULT_MODEL,
    Header,
    build_denoiser,
    build_header_codec,
    build_network,
    load_checkpoint,
    resolve_weights,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

CROP = 192  # pixels; of larger images only the upper left corner is used
# The first and last layer stay in float32, because they are cheap and their errors reach the image directly.
FLOAT_LAYERS = ("conv_in", "conv_out")


@inference_mode
def measure_ranges(header: Header, state_dict: Mapping[str, Tensor], pictures: Iterable[Tensor]) -> Ranges:
    """Measure the smallest and largest input and output of each 3x3 convolution while restoring ``pictures``.

    Runs every number of steps of the header, because early and late times differ. Extremes are more exact than
    percentiles, see benchmarks/2026-11-23_constants.md.

    Args:
        header: header of the network.
        state_dict: weights of the network.
        pictures: (1, 3, H, W) in [0, 1], at least one.

    Returns:
        ``{"blocks.0.conv1:in": (low, high), "blocks.0.conv1:out": ..}``.

    Raises:
        AMDRestoreError: no image, or the weights do not fit.
    """
    from torch import nn

    net, codec = build_network(header, state_dict), build_header_codec(header)
    denoiser = build_denoiser(header, net)
    ranges: dict[str, tuple[float, float]] = {}

    def watch(layer: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        for place, value in ((f"{layer}:in", inputs[0]), (f"{layer}:out", output)):
            low, high = (float(x) for x in value.aminmax())
            before = ranges.get(place, (low, high))
            ranges[place] = (min(low, before[0]), max(high, before[1]))

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and name not in FLOAT_LAYERS:
            module.register_forward_hook(partial(watch, name))
    for seed, picture in enumerate(pictures):
        height, width = (min(side, CROP) // codec.lq_patch * codec.lq_patch for side in picture.shape[2:])
        lq = picture[:, :, :height, :width]
        _, channels, rows, columns = codec.latent_shape(lq)
        draw = partial(_noise, seed, channels, rows, columns)
        for steps in header.steps:
            restore_latent(denoiser, codec, lq, draw, header.recipe(steps))
    if not ranges:
        raise AMDRestoreError("calibration: no image found; name a folder of photographs")
    return ranges


def read_pictures(folder: Path) -> list[Tensor]:
    """Read at most 64 colour images of a folder as (1, 3, H, W) in [0, 1].

    Raises:
        AMDRestoreError: no image, or one cannot be read.
    """
    import torch

    files = [path for path in sorted(folder.glob("*")) if path.suffix.lower() in SUFFIXES][:64]
    pictures = []
    for path in files:
        pixels: Any = read_image(path).pixels
        if pixels.ndim == 3 and pixels.shape[2] >= 3:
            highest = 1.0 if pixels.dtype.kind == "f" else float(2 ** (8 * pixels.dtype.itemsize) - 1)
            colour = torch.from_numpy(pixels[:, :, :3].astype("float32") / highest)
            pictures.append(colour.permute(2, 0, 1)[None])
    if not pictures:
        raise AMDRestoreError(f"{folder}: no colour picture for the calibration; name a folder of photographs")
    return pictures


def _noise(seed: int, channels: int, rows: int, columns: int, step: int) -> Tensor:
    return field_noise(seed, channels, 0, 0, rows, columns, step)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the ranges of a released model and save them in the package; return the exit code."""
    parser = Parser(prog="python -m amd_restore.backends.calibration", description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="released name")
    parser.add_argument("--pictures", type=Path, required=True, help="folder of photographs")
    options = parser.parse_args(arguments)

    def command() -> None:
        header, state = load_checkpoint(resolve_weights(options.model))
        ranges = measure_ranges(header, state, read_pictures(options.pictures))
        path = keep_ranges(state, ranges, RANGES_FOLDER / f"{header.name}.json")
        say(f"{path}: {len(ranges)} ranges")

    return run_command(command, options.debug)


if __name__ == "__main__":
    sys.exit(main())
