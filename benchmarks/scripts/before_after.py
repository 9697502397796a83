"""The README's picture: a clean and a damaged input, bicubic, two public upscalers and one step of the default model.

python benchmarks/scripts/peers/run.py --peers realesrgan-x4plus realesr-general-x4v3 --input . --datasets lowres
    --output results/readme --downloads FOLDER
python benchmarks/scripts/before_after.py --peers results/readme
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from amd_restore.pipeline import RestorationPipeline
from amd_restore.weights import DEFAULT_MODEL

# file, left and top of the cut in input pixels
CUTS = (("red_panda.png", 60, 18), ("kingfisher_jpeg.jpg", 70, 20))
PEERS = ("realesrgan-x4plus", "realesr-general-x4v3")
SIDE = 72  # input pixels


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="released name or weights file")
    parser.add_argument("--steps", type=int, default=1, help="network evaluations")
    parser.add_argument("--peers", type=Path, default=Path("results/readme"), help="their results")
    parser.add_argument("--input", type=Path, default=Path("lowres"), help="sample folder")
    parser.add_argument("--out", type=Path, default=Path("docs/images/before_after.jpg"))
    args = parser.parse_args()
    pipeline = RestorationPipeline.from_pretrained(args.model)
    rows = []
    for name, left, top in CUTS:
        image = Image.open(args.input / name).convert("RGB")
        restored = Image.fromarray(pipeline.restore_image(np.asarray(image), num_steps=args.steps))
        size = (image.width * pipeline.scale, image.height * pipeline.scale)
        others = [Image.open(args.peers / peer / "lowres" / f"{Path(name).stem}.png") for peer in PEERS]
        pictures = (image.resize(size, Image.Resampling.BICUBIC), *others, restored)
        scale = pipeline.scale
        box = (scale * left, scale * top, scale * (left + SIDE), scale * (top + SIDE))
        rows.append(np.concatenate([np.asarray(one.convert("RGB").crop(box)) for one in pictures], axis=1))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows, axis=0)).save(args.out, quality=93, subsampling=0)


if __name__ == "__main__":
    main()
