"""The model that is chosen for each image, and that its pipeline is what the chosen model gives."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
import pytest
from damaged_images import jpeg, noisy
from places import REPOSITORY
from safetensors.numpy import load_file, save_file

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture, read_image
from amd_restore.inference.damage import ESTIMATOR, FEATURES, METADATA, SMALLEST, DamageEstimator, damage_features
from amd_restore.pipeline import (
    AUTO,
    AUTO_MODELS,
    AutomaticPipeline,
    RestorationPipeline,
    files_of,
    load_pipeline,
    suited,
)

CLEAN, LIGHT, HEAVY = "x4-classical", "x4-web", "x4-real"
# The source of kingfisher.png was compressed and sharpened.
PHOTOGRAPHS = sorted(path for path in (REPOSITORY / "lowres").glob("*.png") if path.stem != "kingfisher")
EXTREMES = 48  # the last features, of windows
Pixels = np.ndarray[Any, Any]


def photograph(path: Path) -> Pixels:
    return read_image(path).pixels


def without_colour(image: Pixels) -> Pixels:
    return np.asarray(PIL.Image.fromarray(image).convert("L"))


def resized(image: Pixels, factor: float, quality: int = 0) -> Pixels:
    """Return the image scaled down by ``factor``, with a JPEG unless its quality is 0, and enlarged again."""
    size = image.shape[1::-1]
    small = np.asarray(PIL.Image.fromarray(image).resize([round(factor * side) for side in size]))
    return np.asarray(PIL.Image.fromarray(jpeg(small, quality) if quality else small).resize(size))


def grainy(image: Pixels, std: float, radius: float = 1.2, kind: str = "all") -> Pixels:
    """Return the image with noise that was smoothed: of all channels, of ``gray`` or of ``colour``."""
    noise = np.asarray(np.random.default_rng(0).normal(size=image.shape))
    gray = noise.mean(axis=2, keepdims=True)
    noise = {"all": noise, "gray": gray.repeat(3, axis=2), "colour": noise - gray}[kind]
    noise = cv2.GaussianBlur(noise, (0, 0), radius)
    return np.rint(image + std * noise / noise.std()).clip(0, 255).astype(np.uint8)


def text_page(image: Pixels) -> Pixels:
    """Return a page of text around the image."""
    height, width = (2 * side for side in image.shape[:2])
    page = PIL.Image.new("RGB", (width, height), "white")
    for top in range(0, height, 17):
        PIL.ImageDraw.Draw(page).text(
            (3, top), "The quick brown fox jumps over the lazy dog. " * 3, "black", font_size=12
        )
    page.paste(PIL.Image.fromarray(image), (width // 5, height // 4))
    return np.asarray(page)


@pytest.fixture(scope="module")
def estimator() -> DamageEstimator:
    return DamageEstimator.load()


@pytest.fixture(scope="module")
def pipeline() -> AutomaticPipeline:
    return AutomaticPipeline.from_pretrained(AUTO, "cpu", "fp32")


@pytest.fixture(scope="module")
def alone() -> dict[str, RestorationPipeline]:
    return {name: RestorationPipeline.from_pretrained(name, "cpu", "fp32") for name in (CLEAN, LIGHT, HEAVY)}


@pytest.fixture(scope="module")
def clean() -> Pixels:
    return photograph(PHOTOGRAPHS[0])[:48, :56]


@pytest.fixture(scope="module")
def light(clean: Pixels) -> Pixels:
    return jpeg(clean, 80)


@pytest.fixture(scope="module")
def heavy(clean: Pixels) -> Pixels:
    return jpeg(noisy(clean, 30), 40)


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_damage_is_seen(estimator: DamageEstimator, path: Path) -> None:
    image = photograph(path)
    gray = without_colour(image)
    assert estimator.severity(image) == estimator.severity(image[3:, 5:]) == "clean"  # wherever it is cut
    for light in (jpeg(image, 97), jpeg(image, 85), jpeg(gray, 85), noisy(image, 3)):
        assert estimator.severity(light) == "light"
    blurred = np.asarray(PIL.Image.fromarray(image).filter(PIL.ImageFilter.GaussianBlur(1.2)))
    enlarged = resized(image, 0.5), resized(image, 0.5, 75)
    for heavy in (noisy(image, 8), jpeg(noisy(image, 30), 40), *enlarged, blurred, jpeg(image, 8)):
        assert estimator.severity(heavy) == "heavy"
    for damaged in (
        jpeg(image, 85),
        jpeg(image, 40),
        jpeg(gray, 60),
        jpeg(noisy(image, 8), 75),
        noisy(image, 2),
        noisy(image, 8),
        resized(image, 0.8),
    ):
        assert estimator.severity(damaged) != "clean" != estimator.severity(damaged[3:, 5:])


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_what_is_empty_does_not_hide_damage(
    estimator: DamageEstimator, pipeline: AutomaticPipeline, path: Path
) -> None:
    image = photograph(path)
    for damaged, found in ((noisy(image, 15), {"heavy"}), (jpeg(image, 75), {"light", "heavy"}), (image, {"clean"})):
        for side in (300, 900):
            page = np.full((side, side, 3), 255, np.uint8)
            page[40 : 40 + image.shape[0], 32 : 32 + image.shape[1]] = damaged
            assert estimator.severity(page) in found
        alpha = np.zeros(image.shape[:2], np.uint8)
        alpha[30:110, 40:120] = 255
        assert pipeline.for_image(np.dstack([damaged, alpha])).header.name in {AUTO_MODELS[name] for name in found}
    half = image.copy()
    half[:, image.shape[1] // 3 :] = noisy(image, 15)[:, image.shape[1] // 3 :]
    assert estimator.severity(half) == "heavy"


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_grain_blur_and_damaged_parts_are_seen(estimator: DamageEstimator, path: Path) -> None:
    image = photograph(path)
    height, width = image.shape[:2]
    part = image.copy()
    inside = np.s_[height // 5 : height // 5 + 5 * height // 8, width // 5 : width // 5 + 5 * width // 8]
    part[inside] = noisy(image, 15)[inside]  # 39% of the image
    page = text_page(noisy(image, 15))
    for damaged in (grainy(image, 8), grainy(image, 12, 0.7), cv2.GaussianBlur(image, (0, 0), 3), part, page):
        assert estimator.severity(damaged) == "heavy"
    assert estimator.severity(grainy(image, 10, 1.5, "colour")) != "clean"  # blotches of colour
    assert estimator.severity(text_page(jpeg(image, 60))) != "clean"


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_frames_of_interlaced_video_are_heavy(estimator: DamageEstimator, path: Path) -> None:
    for move in (2, 6):
        frame = photograph(path).copy()
        frame[1::2] = np.roll(frame[1::2], move, axis=1)
        assert estimator.severity(frame) == "heavy"


def test_thumbnails_and_gradients_are_not_heavy(estimator: DamageEstimator) -> None:
    for path in PHOTOGRAPHS:
        image = photograph(path)
        side = min(image.shape[:2])
        thumbnail = cv2.resize(image[:side, :side], (48, 48), interpolation=cv2.INTER_AREA)
        assert estimator.severity(thumbnail) != "heavy"
    for below in (40, 150, 220):
        gradient = np.rint(np.linspace((below, 90, 120), (120, below, 30), 128)).astype(np.uint8)
        assert estimator.severity(gradient[:, None].repeat(96, axis=1)) == "clean"


def test_windows_hold_what_the_whole_hides() -> None:
    image = np.tile(photograph(PHOTOGRAPHS[0])[:96, :96], (4, 4, 1))
    part = image.copy()
    part[:96, 96:192] = noisy(part[:96, 96:192], 25)
    changed = np.abs(damage_features(part) - damage_features(image))
    assert changed[-EXTREMES:].max() > 2 * changed[:-EXTREMES].max()


def test_gray_is_no_damage(estimator: DamageEstimator) -> None:
    found = [estimator.severity(without_colour(photograph(path))) for path in PHOTOGRAPHS]
    assert found.count("clean") >= len(PHOTOGRAPHS) - 1


def test_features_do_not_depend_on_the_depth(clean: Pixels) -> None:
    expected = damage_features(clean)
    assert np.isfinite(expected).all() and expected.shape == (FEATURES,)
    assert np.allclose(damage_features(clean.astype(np.uint16) * 257), expected)
    assert np.allclose(damage_features(clean.astype(np.float32) / 255), expected, atol=1e-4)
    alpha = np.dstack([clean, np.full(clean.shape[:2], 9, np.uint8)])
    assert np.array_equal(damage_features(alpha), expected)
    gray = clean[..., 1]
    for same in (gray[..., None], np.dstack([gray, gray]), np.dstack([gray] * 3)):
        assert np.array_equal(damage_features(same), damage_features(gray))


def test_small_images_are_not_judged(estimator: DamageEstimator, clean: Pixels) -> None:
    assert estimator(clean[: SMALLEST - 1]).tolist() == [0, 0, 1]
    judged = estimator(clean[:SMALLEST, :SMALLEST])
    assert judged.sum() == pytest.approx(1) and (judged > 0).all()


def test_large_images_are_sampled_evenly(estimator: DamageEstimator, clean: Pixels) -> None:
    height, width = clean.shape[:2]
    large = np.pad(clean, ((0, 29 * height), (0, 39 * width), (0, 0)), mode="symmetric")  # seams would be damage
    whole = slice(-EXTREMES)  # in a small image a window has a block or two
    assert np.abs(damage_features(large) - damage_features(clean))[whole].mean() < 0.1
    half = large.copy()
    half[:, : half.shape[1] // 2] = damage = np.indices(half.shape[:2]).sum(0)[:, : half.shape[1] // 2, None] % 2
    expected = (damage_features(large) + damage_features(np.tile(damage.astype(np.uint8), (1, 1, 3)))) / 2
    assert np.abs(damage_features(half) - expected)[63:126].mean() < 0.03  # a half of the blocks, whichever they are
    strip = np.tile(clean[:SMALLEST], (1, 900, 1))
    assert np.abs(damage_features(strip) - damage_features(clean[:SMALLEST]))[whole].mean() < 0.1
    image = photograph(PHOTOGRAPHS[0])[:128, :168]
    large = np.pad(image, ((0, 4 * 128), (0, 6 * 168), (0, 0)), mode="symmetric")  # no window is like another
    assert estimator.severity(large) == "clean" and estimator.severity(jpeg(large, 75)) == "light"


def test_hidden_colours_do_not_decide(pipeline: AutomaticPipeline, clean: Pixels) -> None:
    alpha = np.full(clean.shape[:2], 255, np.uint8)
    alpha[:, 20:] = 0
    names = set()
    for hidden in (clean, noisy(clean, 40), np.zeros_like(clean)):
        image = np.where(alpha[..., None] > 0, clean, hidden)
        names.add(pipeline.for_image(np.dstack([image, alpha])).header.name)
    assert len(names) == 1


def test_each_image_is_restored_by_the_model_that_suits_it(
    pipeline: AutomaticPipeline, alone: dict[str, RestorationPipeline], clean: Pixels, light: Pixels, heavy: Pixels
) -> None:
    for image, name in ((clean, CLEAN), (light, LIGHT), (heavy, HEAVY), (clean[:20, :20], HEAVY)):
        assert pipeline.for_image(image).header.name == name
        assert suited(pipeline, image).header.name == name and suited(alone[CLEAN], image) is alone[CLEAN]
        assert np.array_equal(pipeline.restore_image(image, seed=3), alone[name].restore_image(image, seed=3))
    tiled = pipeline.restore_image(clean, tile=24)  # no tile is judged by itself
    assert np.array_equal(tiled, alone[CLEAN].restore_image(clean, tile=24))


def test_a_batch_may_need_several_models(
    pipeline: AutomaticPipeline, alone: dict[str, RestorationPipeline], clean: Pixels, light: Pixels, heavy: Pixels
) -> None:
    images = [heavy, clean, light, heavy[:, ::-1]]
    lq = np.stack([image.transpose(2, 0, 1) for image in images]).astype(np.float32) / 255
    sr = pipeline(lq, seed=5)
    for row, name in enumerate((HEAVY, CLEAN, LIGHT, HEAVY)):
        assert np.abs(sr[row] - alone[name](lq[row : row + 1], seed=5 + row)[0]).max() < 1 / 255


def test_progress_and_memory_of_a_mixed_batch(
    pipeline: AutomaticPipeline, clean: Pixels, heavy: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    lq = np.stack([image.transpose(2, 0, 1) for image in (heavy, clean)]).astype(np.float32) / 255
    steps: list[tuple[int, int]] = []
    pipeline(lq, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]
    limits: list[float] = []
    call = RestorationPipeline.__call__

    def watched(self: RestorationPipeline, lq: Any, **options: Any) -> Any:
        limits.append(options["max_memory"])
        return call(self, lq, **options)

    monkeypatch.setattr(RestorationPipeline, "__call__", watched)
    pipeline(lq, max_memory=2**40)
    with pytest.raises(AMDRestoreError, match="max_memory must be a number of bytes"):
        pipeline(lq, max_memory="1G")
    assert limits == [2**40 - 4 * 3 * 16 * lq[0, 0].size * 2] * 2  # without the output


def test_what_the_process_holds_is_known_to_all_models(pipeline: AutomaticPipeline, clean: Pixels) -> None:
    before = pipeline.restorer.resident
    try:
        pipeline.restorer.resident = before + 12345
        assert pipeline.for_image(clean).restorer.resident == before + 12345
    finally:
        pipeline.restorer.resident = before


def test_files_and_fidelity(
    pipeline: AutomaticPipeline, alone: dict[str, RestorationPipeline], clean: Pixels, tmp_path: Path
) -> None:
    file = tmp_path / "out.png"
    pipeline.restore_to(file, Picture(clean), fidelity=1.0)
    assert np.array_equal(photograph(file), alone[CLEAN].restore_image(clean, fidelity=1.0))
    models = pipeline.models
    assert models["light"].mean is models["heavy"].mean is not models["clean"].mean  # one teacher, loaded once


def test_threads_load_a_mean_once(monkeypatch: pytest.MonkeyPatch) -> None:
    student = RestorationPipeline.from_pretrained("x4-classical-tiny", "cpu", "fp32")
    load, loaded = RestorationPipeline.from_pretrained, []

    def slow(name: str, **options: Any) -> RestorationPipeline:
        loaded.append(name)
        time.sleep(0.1)
        return load(name, **options)

    monkeypatch.setattr(RestorationPipeline, "from_pretrained", slow)
    with ThreadPoolExecutor(4) as pool:
        means = list(pool.map(lambda _: student.mean, range(4)))
    assert loaded == [student.header.mean] and all(mean is means[0] for mean in means)


def test_what_is_no_image_is_refused_as_by_every_pipeline(pipeline: AutomaticPipeline, clean: Pixels) -> None:
    with pytest.raises(AMDRestoreError, match="must be a numpy array"):
        pipeline.restore_image(clean.tolist())
    with pytest.raises(AMDRestoreError, match="must lie in"):
        pipeline.restore_image(clean.astype(np.float32))
    with pytest.raises(AMDRestoreError, match="must be floating"):
        pipeline(clean[None].transpose(0, 3, 1, 2))
    with pytest.raises(AMDRestoreError, match="2 seeds were given for 1 images"):
        pipeline(clean[None].transpose(0, 3, 1, 2) / np.float32(255), seed=[1, 2])


def test_names(tmp_path: Path) -> None:
    with pytest.raises(AMDRestoreError, match="'auto'"):
        AutomaticPipeline.from_pretrained("x4-real")
    assert type(load_pipeline("x4-classical-tiny", "cpu")) is RestorationPipeline
    assert [file.stem for file in files_of(AUTO)] == [HEAVY, LIGHT, CLEAN, "damage"]
    assert [file.stem for file in files_of("x4-real-fast")] == ["x4-real-fast"]
    other = tmp_path / "damage.safetensors"
    save_file({"mean": np.zeros(1)}, other)
    incomplete = tmp_path / "incomplete.safetensors"
    save_file({"mean": np.zeros(1)}, incomplete, METADATA)
    infinite = tmp_path / "infinite.safetensors"
    save_file(load_file(ESTIMATOR) | {"mean": np.full(FEATURES, np.nan, np.float32)}, infinite, METADATA)
    for bad in (other, incomplete, infinite, tmp_path / "none.safetensors"):
        with pytest.raises(AMDRestoreError, match="no estimator of damage"):
            DamageEstimator.load(bad)
