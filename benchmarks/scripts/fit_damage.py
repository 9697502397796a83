"""Fit the estimator by which ``--model auto`` chooses.

    python benchmarks/scripts/fit_damage.py --input datasets/data/free_photos/train datasets/data/text_crops \
        --out amd_restore/inference/damage.safetensors

Crops of several sizes are scaled down, and most are damaged besides; a small network learns to tell how. What counts as
clean, light and heavy is what ``x4-classical``, ``x4-web`` and ``x4-real`` each restore best (docs/experiments.md,
"Which model for which image").

Prints as what crops of images it was not fitted on are treated, by kind.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import io
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
import PIL.ImageFont
import torch
from safetensors.numpy import save
from torch import nn

from amd_restore.atomic import try_writing, write_atomically
from amd_restore.data.degradations import build_degradation
from amd_restore.data.image_files import list_images, read_rgb
from amd_restore.errors import AMDRestoreError, Parser, run_command, say
from amd_restore.inference.damage import (
    FEATURES,
    METADATA,
    SEVERITIES,
    SMALLEST,
    damage_features,
    damage_of,
    severity_of,
)
from amd_restore.options import OptionFile

Pixels = np.ndarray[Any, Any]
Image = PIL.Image.Image
SCALE = 4
HELD_OUT = 8  # one image of so many is not fitted on
SMALLEST_CROP = SCALE * (SMALLEST + 8)  # pixels of a side, of which the grid of a JPEG takes up to 8 after scaling
SIDES = {128: 0.1, 256: 0.4, 512: 0.3, 1024: 0.2}  # pixels of a crop before it is scaled down, and share
KINDS = {  # severity and share of each, see Damage
    "scaled": ("clean", 0.18),
    "from_jpeg": ("clean", 0.075),
    "jpeg": ("light", 0.105),
    "web": ("light", 0.085),
    "faint": ("light", 0.07),
    "resized": ("light", 0.06),
    "enlarged": ("light", 0.04),
    "noise": ("heavy", 0.065),
    "grain": ("heavy", 0.055),
    "strong": ("heavy", 0.07),
    "earlier": ("heavy", 0.05),
    "crushed": ("heavy", 0.02),
    "interlaced": ("heavy", 0.01),
    "partly": ("heavy", 0.085),
    "hard": ("heavy", 0.03),
}
GRAY = 0.25  # share of inputs without colour
PAGES = 0.1  # share of inputs that are a part of a page
TEXT = 0.07  # share of images with a page in place of the photograph
BARE = 0.3  # share without JPEG of what is blurred, or had far fewer pixels
UNTOUCHED = 2  # levels of 255; what changes a page by no more, as a blur changes one colour, is no damage
MOVED = 6  # pixels to each side that a movement may reach
FONTS = [
    str(path)
    for family in ("DejaVuSans", "DejaVuSerif", "STIXGeneral")
    for path in sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob(f"{family}*.ttf"))
]
LETTERS = "etaoinshrdlucmfwypvbgkjqxz ETAOINSHRDLU    .,;"
FILTERS = tuple(PIL.Image.Resampling[name] for name in ("BOX", "BILINEAR", "BICUBIC", "LANCZOS"))
WEB = OptionFile.read(Path(__file__).parents[2] / "options" / "train" / "perceptual_x4_web.yml").content["degradation"]
SECOND_ORDER: dict[str, dict[str, Any]] = {
    "web": WEB | {"clean_prob": 0.0, "second": WEB["second"] | {"noise_prob": 0.0}},
    "hard": {"type": "second_order", "first_prob": 0.75},
}
HIDDEN, EPOCHS, BATCH, RATE, DECAY, JITTER, DROPOUT = 192, 40, 256, 3e-3, 0.3, 0.05, 0.4


class Damage:
    """Random inputs of ``KINDS``.

    ``scaled`` is a crop scaled down by any filter, ``from_jpeg`` was a good JPEG at full size; ``jpeg``, ``faint`` and
    ``noise`` are scaled down and then damaged, ``grain`` has noise that was smoothed, ``strong`` more noise and then a
    JPEG, or specks, or is blurred, ``crushed`` has a strong JPEG, ``interlaced`` every second row moved; ``partly`` is
    damaged in a rectangle. ``resized`` was damaged at about its size, ``enlarged`` had fewer pixels, ``earlier`` far
    fewer. The others are the degradations of the training. A page of text takes the place of some crops.

    Args:
        seed: decides everything that is random.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.filters = FILTERS
        self.second_order = {kind: build_degradation(options, SCALE) for kind, options in SECOND_ORDER.items()}
        for number, degradation in enumerate(self.second_order.values()):
            degradation.reseed(len(SECOND_ORDER) * seed + number)

    def __call__(self, gt: Pixels) -> tuple[str, Pixels]:
        """Return the kind, and uint8 (H / 4, W / 4, 3), more where it is on a page, of a square uint8 (H, W, 3)."""
        kind = str(self.rng.choice(list(KINDS), p=[share for _, share in KINDS.values()]))
        side, sheet = gt.shape[0] // SCALE, None
        self.filters = FILTERS
        if self.rng.random() < TEXT:
            sheet = np.asarray(self._sheet(side, side))
            gt = sheet.repeat(SCALE, 0).repeat(SCALE, 1)
            self.filters = (PIL.Image.Resampling.BOX,)  # letters on a screen are sharper than any that were scaled down
        if kind in self.second_order:
            clean = torch.from_numpy(np.ascontiguousarray(gt.transpose(2, 0, 1)))[None].float() / 255
            lq = self.second_order[kind](clean)[0].permute(1, 2, 0).mul(255).round().byte().numpy()
        else:
            lq = np.asarray(getattr(self, f"_{kind}")(PIL.Image.fromarray(gt), side))
        if sheet is not None and np.abs(lq.astype(int) - sheet).max() <= UNTOUCHED:
            kind = "scaled"
        if self.rng.random() < GRAY:
            lq = np.asarray(PIL.Image.fromarray(lq).convert("L").convert("RGB"))
        return kind, self._page(lq) if self.rng.random() < PAGES else lq

    def _scaled(self, gt: Image, side: int) -> Image:
        filters = self.filters if gt.width == SCALE * side else FILTERS
        return gt.resize((side, side), filters[self.rng.integers(len(filters))])

    def _from_jpeg(self, gt: Image, side: int) -> Image:
        return self._scaled(self._compressed(gt, 85, 98), side)

    def _jpeg(self, gt: Image, side: int) -> Image:
        return self._compressed(self._scaled(gt, side), 50, 97)

    def _faint(self, gt: Image, side: int) -> Image:
        lq = self._scaled(gt, side)
        return self._grainy(lq, 4, 7) if self.rng.random() < 0.3 else self._noisy(lq, 1.5, 4)

    def _noise(self, gt: Image, side: int) -> Image:
        lq = self._noisy(self._scaled(gt, side), 4, 12)
        return self._compressed(lq, 60, 97) if self.rng.random() < 0.6 else lq

    def _grain(self, gt: Image, side: int) -> Image:
        lq = self._grainy(self._scaled(gt, side), 7, 18)
        return self._compressed(lq, 60, 97) if self.rng.random() < 0.5 else lq

    def _strong(self, gt: Image, side: int) -> Image:
        chance = self.rng.random()
        if chance < 0.4:
            return self._compressed(self._noisy(self._scaled(gt, side), 10, 25), 40, 95)
        if chance < 0.55:
            return self._speckled(self._scaled(gt, side))
        if chance < 0.7:
            lq = self._moved(self._scaled(gt, side))
        else:
            lq = self._scaled(gt.filter(PIL.ImageFilter.GaussianBlur(SCALE * self.rng.uniform(0.55, 4))), side)
        return lq if self.rng.random() < BARE else self._compressed(lq, 40, 95)

    def _crushed(self, gt: Image, side: int) -> Image:
        return self._compressed(self._scaled(gt, side), 3, 30)

    def _partly(self, gt: Image, side: int) -> Image:
        kinds = self._noise, self._grain, self._strong, self._interlaced
        lq, worse = self._scaled(gt, side), kinds[self.rng.integers(len(kinds))](gt, side)
        height, width = (round(side * self.rng.uniform(0.35, 1)) for _ in range(2))
        top, left = (int(self.rng.integers(side - length + 1)) for length in (height, width))
        lq.paste(worse.crop((left, top, left + width, top + height)), (left, top))
        return lq

    def _resized(self, gt: Image, side: int) -> Image:
        return self._with_history(gt, side, 0.85, 1.4, quality=50, noise=2)

    def _enlarged(self, gt: Image, side: int) -> Image:
        return self._scaled(self._scaled(gt, round(side * self.rng.uniform(0.75, 0.93))), side)

    def _earlier(self, gt: Image, side: int) -> Image:
        if self.rng.random() < BARE:
            return self._scaled(self._scaled(gt, round(side * self.rng.uniform(0.4, 0.75))), side)
        return self._with_history(gt, side, 0.4, 0.75, quality=30, noise=8)

    def _with_history(
        self, gt: Image, side: int, lowest: float, highest: float, *, quality: int, noise: float
    ) -> Image:
        """Image that was damaged at another size."""
        lq = self._scaled(gt, round(side * self.rng.uniform(lowest, highest)))
        if self.rng.random() < 0.4:
            lq = self._noisy(lq, 1, noise)
        lq = self._scaled(self._compressed(lq, quality, 92), side)
        return self._compressed(lq, 85, 98) if self.rng.random() < 0.3 else lq

    def _noisy(self, image: Image, lowest: float, highest: float) -> Image:
        pixels = np.asarray(image)
        channels = 1 if self.rng.random() < 0.5 else 3
        noise = self.rng.normal(0, self.rng.uniform(lowest, highest), (*pixels.shape[:2], channels))
        return PIL.Image.fromarray(np.rint(pixels + noise).clip(0, 255).astype(np.uint8))

    def _grainy(self, image: Image, lowest: float, highest: float) -> Image:
        """Noise without its finest grain: of each channel, of gray or of colour."""
        pixels = np.asarray(image, dtype=np.float32)
        noise = self.rng.normal(size=pixels.shape).astype(np.float32)
        of_gray = noise.mean(axis=2, keepdims=True)
        noise = (noise, of_gray.repeat(3, axis=2), noise - of_gray)[self.rng.integers(3)]
        noise = cv2.GaussianBlur(noise, (0, 0), self.rng.uniform(0.5, 1.8))
        noise *= self.rng.uniform(lowest, highest) / noise.std()
        return PIL.Image.fromarray(np.rint(pixels + noise).clip(0, 255).astype(np.uint8))

    def _moved(self, image: Image) -> Image:
        """Blurred along a line."""
        length, angle = self.rng.uniform(3, 10), self.rng.uniform(0, np.pi)
        line = np.zeros((2 * MOVED + 1, 2 * MOVED + 1), np.float32)
        for place in np.linspace(-length / 2, length / 2, 64):
            line[round(MOVED + place * np.sin(angle)), round(MOVED + place * np.cos(angle))] += 1 / 64
        return PIL.Image.fromarray(cv2.filter2D(np.asarray(image), -1, line))

    def _interlaced(self, gt: Image, side: int) -> Image:
        """Every second row moved, as in a frame of a video of something that moves."""
        pixels = np.array(self._scaled(gt, side))
        move = int(self.rng.choice((-1, 1)) * self.rng.integers(2, 9))
        pixels[1::2] = pixels[1::2, np.clip(np.arange(side) + move, 0, side - 1)]
        return PIL.Image.fromarray(pixels)

    def _page(self, lq: Pixels) -> Pixels:
        """An image on a page."""
        height, width = (round(side * self.rng.uniform(1.1, 2.5)) for side in lq.shape[:2])
        page = self._sheet(height, width)
        left, top = (int(self.rng.integers(page.size[axis] - lq.shape[1 - axis] + 1)) for axis in range(2))
        page.paste(PIL.Image.fromarray(lq), (left, top))
        return np.asarray(page)

    def _sheet(self, height: int, width: int) -> Image:
        """A page of one colour or of a gradient, some with bars of colour, most with text."""
        above = self.rng.integers(0, 256, 3) if self.rng.random() < 0.5 else np.full(3, 255)
        below = above if self.rng.random() < 0.5 else self.rng.integers(0, 256, 3)
        falling = self.rng.random() < 0.5
        steps = np.rint(np.linspace(above, below, height if falling else width)).astype(np.uint8)
        page = PIL.Image.fromarray(steps[:, None].repeat(width, 1) if falling else steps[None].repeat(height, 0))
        draw = PIL.ImageDraw.Draw(page)
        for _ in range(self.rng.integers(3)):
            (left, right), (top, bottom) = (np.sort(self.rng.integers(0, end, 2)).tolist() for end in (width, height))
            draw.rectangle((left, top, right, bottom), tuple(self.rng.integers(0, 256, 3).tolist()))
        if self.rng.random() < 0.7:
            draw.fontmode = "1" if self.rng.random() < 0.15 else "L"
            size, ink = int(self.rng.integers(9, 24)), tuple(np.where(above > 127, 0, 255).tolist())
            font = PIL.ImageFont.truetype(FONTS[self.rng.integers(len(FONTS))], size)
            for top in range(0, height, round(size * self.rng.uniform(1.15, 1.8))):
                letters = "".join(self.rng.choice(list(LETTERS), 2 * width // size))
                draw.text((4, top), letters, ink, font)
        return page

    def _speckled(self, image: Image) -> Image:
        pixels = np.array(image)
        specks = self.rng.random(pixels.shape[:2]) < self.rng.uniform(0.003, 0.08)
        pixels[specks] = 255 * self.rng.integers(0, 2, (int(specks.sum()), 1))
        return PIL.Image.fromarray(pixels)

    def _compressed(self, image: Image, lowest: int, highest: int) -> Image:
        file = io.BytesIO()
        quality, subsampling = int(self.rng.integers(lowest, highest)), int(2 * self.rng.integers(2))
        image.save(file, "JPEG", quality=quality, subsampling=subsampling)
        return PIL.Image.open(file).convert("RGB")


def collect(paths: Sequence[Path], count: int, seed: int, workers: int = 1) -> tuple[Pixels, Pixels, Pixels]:
    """Return numbers of images, kinds and features of ``count`` inputs, each as it is, and cut off a JPEG's grid.

    Args:
        paths: images.
        count: inputs, spread over the images by chance.
        seed: decides everything that is random.
        workers: processes; the result does not depend on it.

    Returns:
        (2 count,), (2 count,) and float32 (2 count, F).

    Raises:
        AMDRestoreError: an image cannot be read or is too small.
    """
    counts = np.bincount(np.random.default_rng(seed).integers(len(paths), size=count), minlength=len(paths)).tolist()
    jobs = paths, counts, [(seed, number) for number in range(len(paths))]
    if workers == 1:
        parts = list(map(inputs_of, *jobs))
    else:
        with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            parts = list(pool.map(inputs_of, *jobs, chunksize=4))
    numbers = np.repeat(np.arange(len(paths)), [len(kinds) for kinds, _ in parts])
    return numbers, np.concatenate([kinds for kinds, _ in parts]), np.concatenate([found for _, found in parts])


def inputs_of(path: Path, count: int, seed: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Return kinds and features of ``count`` inputs made of one image, see :func:`collect`."""
    torch.set_num_threads(1)
    image = np.rint(255 * read_rgb(path)).astype(np.uint8)
    if min(image.shape[:2]) < SMALLEST_CROP:
        raise AMDRestoreError(f"{path}: sides must be at least {SMALLEST_CROP} pixels; leave it out")
    rng = np.random.default_rng(seed)
    damage = Damage(int(rng.integers(2**31)))
    kinds, features = np.empty(2 * count, dtype="U12"), np.empty((2 * count, FEATURES), np.float32)
    for index in range(0, 2 * count, 2):
        kinds[index : index + 2], lq = damage(_crop(image, rng))
        features[index], features[index + 1] = damage_features(lq), damage_features(off_grid(lq, rng))
    return kinds, features


def off_grid(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Cut 8 pixels off each axis of an image, by chance at either end, so that a JPEG's grid lies anywhere."""
    top, left = rng.integers(0, 8, 2)
    return image[top : image.shape[0] - 8 + top, left : image.shape[1] - 8 + left]


def _crop(image: Pixels, rng: np.random.Generator) -> Pixels:
    """A random square of a random side, a multiple of ``SCALE``."""
    side = min(int(rng.choice(list(SIDES), p=list(SIDES.values()))), min(image.shape[:2]) // SCALE * SCALE)
    top, left = (int(rng.integers(length - side + 1)) for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def fit(features: Pixels, severities: Pixels, seed: int) -> dict[str, Pixels]:
    """Train the network; return its tensors.

    Args:
        features: (N, F), see :func:`~amd_restore.inference.damage.damage_features`.
        severities: (N,), indices of :data:`~amd_restore.inference.damage.SEVERITIES`.
        seed: of the initial weights and the order.
    """
    torch.manual_seed(seed)
    mean, std = features.mean(0), features.std(0) + 1e-3
    x, y = torch.tensor((features - mean) / std).float(), torch.tensor(severities)
    layers = [nn.Linear(x.shape[1], HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, len(SEVERITIES))]
    between = (nn.ReLU(), nn.Dropout(DROPOUT))
    net = nn.Sequential(layers[0], *between, layers[1], *between, layers[2])
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    for epoch in range(EPOCHS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - epoch / EPOCHS)
        for rows in torch.randperm(len(x)).split(BATCH):
            noisy = x[rows] + JITTER * torch.randn_like(x[rows])
            loss = nn.functional.cross_entropy(net(noisy), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    tensors = {"mean": mean.astype(np.float32), "std": std.astype(np.float32)}
    for number, layer in enumerate(layers, 1):
        tensors |= {f"weight{number}": layer.weight.detach().numpy(), f"bias{number}": layer.bias.detach().numpy()}
    return tensors


def run(options: argparse.Namespace) -> None:
    """Collect, fit, judge and write.

    Raises:
        AMDRestoreError: bad arguments or images, too few images, or a file that cannot be written.
    """
    if options.count < 1 or options.seed < 0 or options.workers < 1:
        raise AMDRestoreError("--count and --workers must be at least 1, --seed at least 0")
    try_writing(options.out)
    paths = [path for folder in options.input for path in list_images(folder)]
    numbers, kinds, features = collect(paths, options.count, options.seed, options.workers)
    held_out = numbers % HELD_OUT == 0
    if held_out.all() or not held_out.any():
        raise AMDRestoreError(f"{len(paths)} images and {options.count} inputs are too few to fit and to judge by")
    severities = np.array([SEVERITIES.index(KINDS[kind][0]) for kind in kinds])
    tensors = fit(features[~held_out], severities[~held_out], options.seed)
    found = np.array([SEVERITIES.index(severity_of(damage_of(row, tensors))) for row in features[held_out]])
    say(f"{'':10s} " + " ".join(f"{severity:>6s}" for severity in SEVERITIES))
    for kind in KINDS:
        taken = np.bincount(found[kinds[held_out] == kind], minlength=len(SEVERITIES))
        say(f"{kind:10s} " + " ".join(f"{share:6.1%}" for share in taken / max(taken.sum(), 1)) + f" of {taken.sum()}")
    write_atomically(options.out, save(tensors, METADATA))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="folders of photographs")
    parser.add_argument("--count", type=int, default=120000, help="inputs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that make the inputs (default: 1)")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args(argv)
    return run_command(lambda: run(options), options.debug)


if __name__ == "__main__":
    sys.exit(main())
