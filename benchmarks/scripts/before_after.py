"""The README's picture: input (pixels repeated), bicubic, one step of the shipped student.

python benchmarks/scripts/before_after.py --out docs/images/before_after.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from amd_restore.pipeline import RestorationPipeline
from amd_restore.weights import DEFAULT_MODEL

# file, left and top of the cut in input pixels
CUTS = (("red_panda.png", 60, 18), ("neuschwanstein_noisy.jpg", 40, 14), ("kingfisher_jpeg.jpg", 70, 20))
SIDE = 84  # input pixels


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="released name or weights file")
    parser.add_argument("--steps", type=int, default=1, help="network evaluations")
    parser.add_argument("--input", type=Path, default=Path("lowres"), help="sample folder")
    parser.add_argument("--out", type=Path, default=Path("docs/images/before_after.jpg"))
    args = parser.parse_args()
    pipeline = RestorationPipeline.from_pretrained(args.model)
    rows = []
    for name, left, top in CUTS:
        image = Image.open(args.input / name).convert("RGB")
        restored = Image.fromarray(pipeline.restore_image(np.asarray(image), num_steps=args.steps))
        size = (image.width * pipeline.scale, image.height * pipeline.scale)
        plain = [image.resize(size, method) for method in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)]
        box = tuple(pipeline.scale * v for v in (left, top, left + SIDE, top + SIDE))
        rows.append(np.concatenate([np.asarray(picture.crop(box)) for picture in (*plain, restored)], axis=1))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows, axis=0)).save(args.out, quality=93, subsampling=0)


if __name__ == "__main__":
    main()
