"""The picture of failures in the model cards: faces, letters, people, heavy noise; the columns are in its caption.

python benchmarks/scripts/failure_examples.py --out docs/images/failures.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from amd_restore.pipeline import RestorationPipeline

MUSIC = "gcompris-qt-data__explore_world_music"
# photograph, left and top of the cut in pixels of the ground truth, whether the noisy input is taken
CUTS = ((f"{MUSIC}-mexico", 88, 60, False), (f"{MUSIC}-japan", 100, 90, False), (f"{MUSIC}-orchestra", 160, 130, False))
NOISY = ((f"{MUSIC}-mexico", 88, 60, True),)
SIDE = 224  # pixels of the ground truth


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, default=Path("datasets/data/free_photos/val"))
    parser.add_argument("--noisy", type=Path, default=Path("datasets/data/real_world/LQx4"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/failures.jpg"))
    args = parser.parse_args()
    models = [RestorationPipeline.from_pretrained(name) for name in ("x4-classical", "x4-real")]
    rows = []
    for name, left, top, is_noisy in (*CUTS, *NOISY):
        truth = Image.open(args.photographs / f"{name}.png").convert("RGB")
        truth = truth.crop((0, 0, truth.width // 4 * 4, truth.height // 4 * 4))
        size = truth.width // 4, truth.height // 4
        small = truth.resize(size, Image.Resampling.BICUBIC)
        if is_noisy:
            small = Image.open(args.noisy / f"{name}.png").convert("RGB")
        enlarged = small.resize((4 * small.width, 4 * small.height), Image.Resampling.BICUBIC)
        restored = [Image.fromarray(model.restore_image(np.asarray(small))) for model in models]
        box = (left, top, left + SIDE, top + SIDE)
        rows.append(np.concatenate([np.asarray(p.crop(box)) for p in (enlarged, *restored, truth)], axis=1))
    Image.fromarray(np.concatenate(rows)).save(args.out, quality=90)


if __name__ == "__main__":
    main()
