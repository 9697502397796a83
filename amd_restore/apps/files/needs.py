"""How much memory a picture takes besides the tiles, which the pipeline plans: estimated from its header."""

from __future__ import annotations

import math
from dataclasses import dataclass

from amd_restore.apps.files.settings import Settings
from amd_restore.image_io.sizing import output_size

# Copies of its pixels while a picture is decoded (the decoder's own, the array, a turned one) or encoded.
_DECODING, _ENCODING = {".webp": 5.5, ".avif": 3.5}, {".avif": 10.0}
_DECODING_OTHERS, _DECODING_DEEP, _ENCODING_OTHERS = 3.0, 4.0, 4.0


@dataclass(frozen=True)
class Need:
    """Bytes that a picture takes.

    Args:
        reading: while it is read.
        restoring: while it is restored, with the input and the outputs, but without tiles.
        writing: while its outputs are encoded.
        beside: of ``restoring``, what the pipeline does not know of.
    """

    reading: int
    restoring: int = 0
    writing: int = 0
    beside: int = 0

    @property
    def most(self) -> int:
        """The most that it takes at any time."""
        return max(self.reading, self.restoring, self.writing)


def need_of(
    shape: tuple[int, int, int, int], streamed: bool, suffixes: tuple[str, str], scale: int, settings: Settings
) -> Need:
    """What a picture takes.

    Args:
        shape: height, width, channels, bytes of a value.
        streamed: whether its output is never whole in memory.
        suffixes: of input and output.
        scale: of the network.
        settings: what is made of it.
    """
    height, width, channels, depth = shape
    pixels = math.prod(shape)
    copies = _DECODING_DEEP if depth > 1 else _DECODING.get(suffixes[0].lower(), _DECODING_OTHERS)
    reading = round(copies * pixels)
    if streamed:
        return Need(reading, pixels)
    size = output_size(height, width, scale, settings.outscale, settings.max_side, settings.width)
    area, final_area = height * width * scale**2, math.prod(size)
    output, final = area * channels * depth, final_area * channels * depth
    beside = (settings.n_samples - 1) * final
    if area != final_area:  # float planes of one channel, before, between and after
        beside += final + 4 * area + 20 * final_area
    if settings.color_fix == "adain":  # the output in float, and its copies
        beside += 12 * channels * area
    if settings.uncertainty:  # sums over samples, in float, and their statistics
        beside += 60 * area
    kept = pixels + settings.n_samples * final
    encoding = _ENCODING.get(suffixes[1].lower(), _ENCODING_OTHERS) * final
    if settings.compare:  # the enlarged input, and both side by side as PNG
        encoding = max(encoding, (3 + 2 * _ENCODING_OTHERS) * final)
    writing = kept + round(encoding)
    return Need(reading, pixels + output + beside, writing, beside)
