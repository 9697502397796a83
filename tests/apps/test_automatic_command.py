"""``--model auto``, the default of the command and of the page: who is chosen, what the report says, what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_images import jpeg, noisy
from places import REPOSITORY

from amd_restore.apps.cli import main, video
from amd_restore.apps.files import work
from amd_restore.apps.ray.engine import _model_everywhere
from amd_restore.apps.ui.models import Models
from amd_restore.image_io import Frame, Picture, read_image, write_frames, write_image
from amd_restore.pipeline import AUTO, AutomaticPipeline, RestorationPipeline, load_pipeline

Pixels = np.ndarray[Any, Any]


# Of the inputs in `folder`.
MODELS = {"clean": "x4-classical", "light": "x4-web", "noisy": "x4-real"}


def sample(name: str) -> Pixels:
    return read_image(REPOSITORY / "lowres" / name).pixels[:40, :48]


def compressed() -> Pixels:
    return jpeg(sample("neuschwanstein.png"), 85)


def worn() -> Pixels:
    return noisy(sample("neuschwanstein.png"), 40)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, image in zip(MODELS, (sample("great_wall.png"), compressed(), worn()), strict=True):
        write_image(tmp_path / "in" / f"{name}.png", Picture(image))
    return tmp_path / "in"


def restore(folder: Path, out: Path, *options: str) -> None:
    assert main(["-i", str(folder), "-o", str(out), "--dtype", "fp32", "--backend", "onnx", *options]) == 0


def restored(folder: Path, out: Path, *options: str) -> dict[str, Pixels]:
    restore(folder, out, *options)
    return {path.stem: read_image(path).pixels for path in out.glob("*.png")}


@pytest.mark.parametrize("options", [(), ("--model", "auto"), ("--batch", "2")], ids=" ".join)
def test_each_image_of_a_folder(folder: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    report = tmp_path / "report.json"
    found = restored(folder, tmp_path / "auto", *options, "--json", str(report))
    images = json.loads(report.read_text(encoding="utf-8"))["images"]
    assert [image["model"] for image in images] == list(MODELS.values())
    for name, model in MODELS.items():
        expected = restored(folder / f"{name}.png", tmp_path / name, "--model", model)[name]
        difference = np.abs(found[name].astype(int) - expected)
        assert difference.max() <= (1 if "--batch" in options else 0)


@pytest.mark.parametrize("expected", ["x4-classical", "x4-real"])
def test_an_animation_has_the_model_of_its_first_frame(tmp_path: Path, expected: str) -> None:
    images = sample("great_wall.png"), worn()
    frames = [Frame(Picture(image), 100) for image in (images if expected == "x4-classical" else images[::-1])]
    write_frames(tmp_path / "in/moving.png", frames)
    report = tmp_path / "report.json"
    restore(tmp_path / "in", tmp_path / "auto", "--frames", "--json", str(report))
    restore(tmp_path / "in", tmp_path / "one", "--frames", "--model", expected)
    assert json.loads(report.read_text(encoding="utf-8"))["images"][0]["model"] == expected
    auto, one = ((tmp_path / name / "moving.png").read_bytes() for name in ("auto", "one"))
    same = auto == one  # not in the assertion, which would print both files
    assert same


@pytest.mark.parametrize(("name", "model"), MODELS.items())
@pytest.mark.parametrize("options", [("--uncertainty",), ("--color-fix", "adain")], ids=" ".join)
def test_further_outputs_are_those_of_the_chosen_model(
    folder: Path, tmp_path: Path, name: str, model: str, options: tuple[str, ...]
) -> None:
    found = restored(folder / f"{name}.png", tmp_path / "auto", *options)
    expected = restored(folder / f"{name}.png", tmp_path / "one", *options, "--model", model)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_a_video_keeps_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []

    def load(name: str, *arguments: Any) -> RestorationPipeline:
        loaded.append(name)
        return load_pipeline(name, *arguments)

    monkeypatch.setattr(work, "load_pipeline", load)
    video.frame_restorer(video.build_parser().parse_args(["-i", "a.mp4", "-o", "b.mp4", "--backend", "onnx"]))
    assert loaded == ["x4-real"]


def test_a_cluster_is_told_the_name() -> None:
    assert _model_everywhere(AUTO) == AUTO and _model_everywhere(None) is None


def test_what_needs_one_model(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-i", str(folder), "-o", str(tmp_path / "out"), "--consistency"]) == 2
    assert "use --model x4-classical" in capsys.readouterr().err
    video = ["video", "-i", "a.mp4", "-o", str(tmp_path / "b.mp4"), "--model", "auto"]
    (tmp_path / "a.mp4").write_bytes(b"x")
    video[2] = str(tmp_path / "a.mp4")
    assert main(video) == 2
    assert "name a model" in capsys.readouterr().err


def test_the_page_offers_it_first() -> None:
    loaded: list[str] = []

    def load(name_or_path: str | Path) -> RestorationPipeline:
        loaded.append(Path(name_or_path).stem)
        return load_pipeline(name_or_path, "cpu", "fp32")

    models = Models(AUTO, load)
    assert [*models.headers][:2] == [AUTO, "x1-real"] and loaded == [AUTO]
    assert isinstance(models.get(), AutomaticPipeline) and not isinstance(models.get("x4-real-fast"), AutomaticPipeline)
    others = Models("x4-real-fast", load)
    assert [*others.headers][:2] == ["x4-real-fast", AUTO]
