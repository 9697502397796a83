"""The fit of the estimator by which ``--model auto`` chooses: it learns what is to be learned, and writes it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from places import REPOSITORY
from smooth_images import smooth_image

from amd_restore.inference.damage import FEATURES, SEVERITIES, DamageEstimator, damage_of

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "scripts"))
fit_damage = importlib.import_module("fit_damage")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed in range(16):
        PIL.Image.fromarray(smooth_image(seed, 304, 256)).save(folder / f"{seed:02d}.png")
    PIL.Image.fromarray(smooth_image(16, 280, 304)).convert("L").save(folder / "gray.png")
    return folder


def test_fits_and_writes(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "damage.safetensors"
    options = ["--input", str(photographs), "--count", "200"]
    assert fit_damage.main([*options, "--out", str(out)]) == 0
    again = tmp_path / "again.safetensors"
    assert fit_damage.main([*options, "--workers", "2", "--out", str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()
    lines = capsys.readouterr().out.splitlines()[: 1 + len(fit_damage.KINDS)]
    assert lines[0].split() == list(SEVERITIES)
    assert [line.split()[0] for line in lines[1:]] == list(fit_damage.KINDS)
    assert DamageEstimator.load(out)(smooth_image(0)).sum() == pytest.approx(1)


def test_what_cannot_be_cropped_is_named(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "damage.safetensors"
    PIL.Image.fromarray(smooth_image(0, 120, 304)).save(photographs / "narrow.png")
    assert fit_damage.main(["--input", str(photographs), "--count", "20", "--out", str(out)]) == 2
    assert "narrow.png: sides must be at least 128 pixels" in capsys.readouterr().err and not out.exists()
    assert fit_damage.main(["--input", str(tmp_path), "--out", str(out)]) == 2
    assert str(tmp_path) in capsys.readouterr().err and not out.exists()
    (photographs / "narrow.png").write_bytes((photographs / "00.png").read_bytes()[:900])
    assert fit_damage.main(["--input", str(photographs), "--count", "20", "--out", str(out)]) == 2
    assert "narrow.png" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--count", "0"], "--count and --workers must be at least 1"),
        (["--seed", "-1"], "--seed at least 0"),
        (["--count", "1"], "17 images and 1 inputs are too few"),
        (["--out", "no.txt/damage.safetensors"], "no.txt"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str],
    said: str,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("no.txt").touch()
    assert fit_damage.main(["--input", str(photographs), "--out", "damage.safetensors", *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not Path("damage.safetensors").exists()


def test_learns_what_differs() -> None:
    rng = np.random.default_rng(0)
    features, severities = rng.normal(size=(600, FEATURES)), rng.integers(0, 3, 600)
    for severity in (1, 2):
        features[:, 20 * severity : 20 * severity + 20] += 2 * (severities == severity)[:, None]
    tensors = fit_damage.fit(features[:400], severities[:400], seed=0)
    found = np.array([damage_of(row, tensors) for row in features[400:]])
    assert found.shape == (200, 3) and np.allclose(found.sum(1), 1)
    assert (found.argmax(1) == severities[400:]).mean() > 0.9


def test_inputs_are_of_all_kinds_and_the_same_again() -> None:
    gt = smooth_image(0, 256, 256)
    first, second = fit_damage.Damage(3), fit_damage.Damage(3)
    kinds, pages = set(), 0
    for _ in range(200):
        kind, lq = first(gt)
        assert 64 <= min(lq.shape[:2]) <= max(lq.shape[:2]) <= 160 and lq.shape[2] == 3 and lq.dtype == np.uint8
        assert np.array_equal(lq, second(gt)[1])
        kinds.add(kind)
        pages += lq.shape != (64, 64, 3)
    assert 0.5 < pages / 200 / fit_damage.PAGES < 1.5
    assert kinds == set(fit_damage.KINDS) and {severity for severity, _ in fit_damage.KINDS.values()} == set(SEVERITIES)
    assert sum(share for _, share in fit_damage.KINDS.values()) == pytest.approx(1)


@pytest.mark.parametrize("lettered", [True, False])
def test_a_page_is_damaged_like_a_photograph(lettered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    page = np.full((64, 64, 3), 200, np.uint8)
    if lettered:
        page[:] = np.random.default_rng(0).integers(0, 2, (64, 64, 1)) * 255
    monkeypatch.setattr(fit_damage.Damage, "_sheet", lambda self, height, width: PIL.Image.fromarray(page))
    for name, share in {"TEXT": 1, "PAGES": 0, "GRAY": 0}.items():
        monkeypatch.setattr(fit_damage, name, share)
    intact: set[str] = set()
    damaged: set[str] = set()
    for seed in range(200):
        kind, lq = fit_damage.Damage(seed)(smooth_image(0, 256, 256))
        (intact if np.abs(lq.astype(int) - page).max() <= 2 else damaged).add(kind)
    assert intact == {"scaled"} and "scaled" not in damaged  # what has no letters to lose is not called blurred
    assert damaged >= ({"enlarged", "strong", "earlier", "jpeg"} if lettered else {"noise", "grain", "faint"})
    assert ("enlarged" in damaged) == lettered


def test_grain_is_smooth_and_of_what_it_says() -> None:
    flat = PIL.Image.new("RGB", (128, 128), (150, 128, 90))
    found = set()
    for seed in range(12):
        grain = np.asarray(fit_damage.Damage(seed)._grainy(flat, 8, 8)).astype(float) - (150, 128, 90)
        neighbours = np.corrcoef(grain[:, 1:, 0].ravel(), grain[:, :-1, 0].ravel())[0, 1]
        assert neighbours > 0.1 and 5 < grain.std(axis=(0, 1)).max() < 20
        kind = bool(grain.mean(axis=2).std() > 2), bool((grain[..., 0] - grain[..., 1]).std() > 2)
        if kind == (True, False):  # gray: the same in all channels, so that no rounding to other colours gives it away
            assert np.ptp(grain, axis=2).mean() < 0.01
        found.add(kind)
    assert found == {(True, True), (True, False), (False, True)}


def test_a_moved_image_is_blurred_along_a_line_of_light_kept() -> None:
    dot = np.zeros((41, 41, 3), np.uint8)
    dot[20, 20] = 255
    for seed in range(8):
        moved = np.asarray(fit_damage.Damage(seed)._moved(PIL.Image.fromarray(dot)))[..., 0]
        assert abs(int(moved.sum()) - 255) < 12
        rows, columns = np.nonzero(moved)
        assert 2 <= np.hypot(np.ptp(rows), np.ptp(columns)) <= 12 and moved.max() < 128


def test_every_second_row_of_an_interlaced_image_is_moved() -> None:
    gt = PIL.Image.fromarray(smooth_image(0, 256, 256))
    damage = fit_damage.Damage(0)
    damage.filters = fit_damage.FILTERS[:1]
    image = np.asarray(damage._scaled(gt, 64))
    for _ in range(4):
        found = np.asarray(damage._interlaced(gt, 64))
        assert np.array_equal(found[::2], image[::2])
        moves = [m for m in range(-8, 9) if np.array_equal(np.roll(image, m, axis=1)[1::2, 8:-8], found[1::2, 8:-8])]
        assert len(moves) == 1 and abs(moves[0]) >= 2


def test_a_page_holds_the_image() -> None:
    lq = smooth_image(0, 64, 72)
    backgrounds = set()
    for seed in range(24):
        page = fit_damage.Damage(seed)._page(lq)
        windows = np.lib.stride_tricks.sliding_window_view(page, lq.shape)[:, :, 0]
        ((top, left),) = np.argwhere((windows == lq).all(axis=(2, 3, 4)))
        rest = np.ma.array(page, mask=np.zeros(page.shape, bool))
        rest[top : top + 64, left : left + 72] = np.ma.masked
        backgrounds.add((bool(np.ma.ptp(rest, axis=1).max() > 0), bool(np.ma.ptp(rest[:, -1], axis=0).max() > 0)))
    assert len(backgrounds) >= 3  # plain, graded, with text


def test_what_is_cut_off_the_grid_is_eight_pixels_of_each_axis() -> None:
    image, rng = smooth_image(0, 64, 120), np.random.default_rng(0)
    places = set()
    for _ in range(40):
        cut = fit_damage.off_grid(image, rng)
        assert cut.shape == (56, 112, 3)
        ((top, left),) = np.argwhere(
            (np.lib.stride_tricks.sliding_window_view(image, cut.shape)[:, :, 0] == cut).all(axis=(2, 3, 4))
        )
        places.add((int(top), int(left)))
    assert {top for top, _ in places} == {left for _, left in places} == set(range(8))
