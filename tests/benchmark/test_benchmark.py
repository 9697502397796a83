"""Benchmarks: pairs, protocol, marks, statistics, resuming, and the commands from end to end."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from places import REPOSITORY
from smooth_images import smooth_image
from tiny_model import save_tiny

from amd_restore.benchmark import __main__ as command
from amd_restore.benchmark import panel
from amd_restore.benchmark.images import TestSet, read_rgb, resize_to_height, to_uint8
from amd_restore.benchmark.metrics import Measure
from amd_restore.benchmark.options import DatasetOptions, load_benchmark_options
from amd_restore.diffusion import GuidedDenoiser, field_noise, restore_latent
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture, write_image
from amd_restore.pipeline import RestorationPipeline

OTHER_CODEC = {"type": "residual", "scale": 4, "patch": 4, "std": 0.1}
LIGHT = ["psnr_y", "ssim_y", "consistency"]  # metrics that need no weights


@pytest.fixture
def gt_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "gt"
    for index in range(3):
        write_image(folder / f"img_{index}.png", Picture(smooth_image(index)))
    return folder


def write_options(file: Path, **changes: Any) -> Path:
    options = {"name": "mini", "seeds": [0, 1], "metrics": LIGHT, "crop_border": 2, **changes}
    file.write_text(yaml.safe_dump(options), encoding="utf-8")
    return file


def results_of(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    content = json.loads((out / "mini.json").read_text(encoding="utf-8"))
    return {(entry["method"], entry["dataset"]): entry for entry in content["results"]}


# ---- test sets -----------------------------------------------------------------------------------------------------


def test_inputs_made_from_gt_are_matlabs(assets: Path) -> None:
    """BasicSR's imresize against the published x4 inputs.

    MATLAB made those from bytes, which it rounds and clips between the two directions: hence a few levels at edges.
    """
    root = assets / "benchmarks/Set5"
    made = TestSet("Set5", DatasetOptions(gt=str(root / "GTmod4")), 4)
    given = TestSet("Set5", DatasetOptions(gt=str(root / "GTmod4"), lq=str(root / "LRbicx4")), 4)
    for one, other in zip(made, given, strict=True):
        difference = np.abs(one.lq.astype(int) - other.lq.astype(int))
        assert one.name == other.name
        assert difference.mean() < 0.2 and np.percentile(difference, 99) <= 1
    assert made.fingerprint() != given.fingerprint()


def test_crop_keeps_pairs_aligned(gt_folder: Path, tmp_path: Path) -> None:
    lq_folder = tmp_path / "lq"
    for path in sorted(gt_folder.iterdir()):
        gt = read_rgb(path)
        write_image(lq_folder / path.name, Picture(to_uint8(resize_to_height(gt, gt.shape[0] // 4))))
    whole = next(iter(TestSet("a", DatasetOptions(gt=str(gt_folder), lq=str(lq_folder)), 4)))
    cropped = next(iter(TestSet("a", DatasetOptions(gt=str(gt_folder), lq=str(lq_folder), crop=36), 4)))
    assert whole.gt is not None and cropped.gt is not None
    assert cropped.gt.shape == (36, 36, 3) and cropped.lq.shape == (9, 9, 3)
    for top in range(whole.lq.shape[0] - 8):
        for left in range(whole.lq.shape[1] - 8):
            if np.array_equal(whole.lq[top : top + 9, left : left + 9], cropped.lq):
                gt = whole.gt[4 * top : 4 * top + 36, 4 * left : 4 * left + 36]
                assert np.array_equal(gt, cropped.gt)
                return
    pytest.fail("the cropped input is no window of the whole one")


def test_odd_sizes_are_cut_to_the_scale(tmp_path: Path) -> None:
    write_image(tmp_path / "gt/odd.png", Picture(smooth_image(0)[:59, :85]))
    for scale, size in ((4, (56, 84)), (3, (57, 84))):
        pair = next(iter(TestSet("odd", DatasetOptions(gt=str(tmp_path / "gt")), scale)))
        assert pair.gt is not None and pair.gt.shape[:2] == size
        assert pair.lq.shape[:2] == (size[0] // scale, size[1] // scale)


def test_gray_is_read_as_rgb(tmp_path: Path) -> None:
    write_image(tmp_path / "gray.png", Picture(smooth_image(0)[:, :, :1]))
    image = read_rgb(tmp_path / "gray.png")
    assert image.shape == (64, 96, 3) and np.array_equal(image[..., 0], image[..., 2])


def test_hidden_files_are_no_images(gt_folder: Path) -> None:
    whole = len(TestSet("x", DatasetOptions(gt=str(gt_folder)), 4))
    (gt_folder / "._img_0.png").write_bytes(b"\0\5\26\7")
    assert len(TestSet("x", DatasetOptions(gt=str(gt_folder)), 4)) == whole


def test_test_set_errors(gt_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AMDRestoreError, match="no such folder"):
        TestSet("x", DatasetOptions(gt=str(tmp_path / "none")), 4)
    write_image(tmp_path / "lq/img_0.png", Picture(smooth_image(0)))
    with pytest.raises(AMDRestoreError, match="no input for img_1, img_2"):
        TestSet("x", DatasetOptions(gt=str(gt_folder), lq=str(tmp_path / "lq")), 4)
    with pytest.raises(AMDRestoreError, match="is not 1/4 of"):
        next(iter(TestSet("x", DatasetOptions(gt=str(gt_folder), lq=str(tmp_path / "lq"), limit=1), 4)))


# ---- the command ---------------------------------------------------------------------------------------------------


def test_benchmark_from_end_to_end(gt_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = save_tiny(tmp_path / "tiny.safetensors", rewards=("psnr",))
    file = write_options(
        tmp_path / "mini.yml",
        datasets={"A": {"gt": str(gt_folder)}, "B": {"gt": str(gt_folder), "limit": 1, "crop": 48}},
        methods=[
            {"name": "bicubic", "type": "bicubic"},
            {"name": "tiny", "weights": [str(weights)], "steps": [1, 2]},
        ],
        compare=[{"a": "tiny, 1 step", "b": "bicubic"}],
    )
    out = tmp_path / "out"
    assert command.main(["-opt", str(file), "--out", str(out)]) == 0
    text = (out / "mini.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out

    results = results_of(out)
    assert set(results) == {(m, d) for m in ("bicubic", "tiny, 1 step", "tiny, 2 steps") for d in "AB"}
    tiny = results["tiny, 1 step", "A"]
    assert np.shape(tiny["values"]["psnr_y"]) == (2, 3) and np.shape(tiny["seconds"]) == (2, 3)
    assert np.shape(results["bicubic", "B"]["values"]["psnr_y"]) == (1, 1)
    first, second = tiny["values"]["psnr_y"]
    assert first != second  # the seeds are different noises

    # What is measured is what a user would have saved.
    pair = next(iter(TestSet("A", DatasetOptions(gt=str(gt_folder)), 4)))
    saved = RestorationPipeline.from_pretrained(weights, "cpu", torch.float32).restore_image(
        pair.lq, num_steps=1, seed=1
    )
    measured = Measure(["psnr_y"], crop_border=2)(saved, pair)["psnr_y"]
    assert second[0] == pytest.approx(measured, abs=1e-9)

    # PSNR was the reward: it is marked and stands apart from the others.
    held_out, trained_on = text.split("## B")[0].split("Trained on by")
    assert "SSIM-Y" in held_out and "PSNR-Y" not in held_out
    assert f"{np.mean(tiny['values']['psnr_y']):.2f} ± " in trained_on and "†" in trained_on.split("tiny, 1 step")[1]
    assert "†" not in [line for line in trained_on.splitlines() if line.startswith("| bicubic")][0]

    assert "| tiny, 1 step | bicubic | A | SSIM-Y |" in text
    for part in ("commit", "SHA-256", "torch", "threads", "tiny/tiny.safetensors"):
        assert part in text.split("## Protocol")[1]
    rows = list(csv.DictReader((out / "mini.csv").open(encoding="utf-8")))
    wanted = [r for r in rows if (r["dataset"], r["method"], r["metric"]) == ("A", "tiny, 1 step", "psnr_y")]
    assert float(wanted[0]["mean"]) == pytest.approx(np.mean(tiny["values"]["psnr_y"])) and wanted[0]["mark"] == "†"


def test_finished_runs_are_kept(gt_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = save_tiny(tmp_path / "tiny.safetensors")
    settings: dict[str, Any] = {
        "datasets": {"A": {"gt": str(gt_folder)}},
        "methods": [{"name": "tiny", "weights": [str(weights)]}],
    }
    file, out = write_options(tmp_path / "mini.yml", **settings), tmp_path / "out"
    calls = []
    original = RestorationPipeline.__call__

    def counted(self: RestorationPipeline, lq: torch.Tensor, **options: Any) -> torch.Tensor:
        calls.append(options.get("seed", "warm-up"))
        return original(self, lq, **options)

    monkeypatch.setattr(RestorationPipeline, "__call__", counted)
    arguments = ["-opt", str(file), "--out", str(out)]
    assert command.main(arguments) == 0
    before = results_of(out)
    assert calls == ["warm-up", 0, 0, 0, 1, 1, 1]
    assert command.main(arguments) == 0 and len(calls) == 7
    assert results_of(out) == before

    write_options(file, **settings, seeds=[0, 1, 2])
    assert command.main(arguments) == 0
    assert calls[7:] == ["warm-up", 2, 2, 2]
    assert command.main([*arguments, "--fresh"]) == 0 and len(calls) == 11 + 10

    save_tiny(weights, codec=OTHER_CODEC)
    assert command.main(arguments) == 0 and len(calls) == 21 + 10  # other weights under the same name


def test_results_of_other_packages_or_backbones_are_not_reused(
    gt_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "datasets": {"A": {"gt": str(gt_folder), "limit": 1}},
        "methods": [{"name": "bicubic", "type": "bicubic"}],
    }
    file, out = write_options(tmp_path / "mini.yml", **settings), tmp_path / "out"

    def kept() -> int:
        assert command.main(["-opt", str(file), "--out", str(out)]) == 0
        return len(list((out / "cache").iterdir()))

    assert (kept(), kept()) == (1, 1)
    identity = json.loads(next((out / "cache").iterdir()).read_text(encoding="utf-8"))["identity"]
    assert identity["versions"]["torch"] == version("torch") and identity["lpips_backbones"] == {}
    with monkeypatch.context() as patch:
        patch.setattr("amd_restore.benchmark.evaluate.package_versions", lambda names: dict.fromkeys(names, "other"))
        assert kept() == 2
    monkeypatch.setattr("amd_restore.benchmark.evaluate.backbone_hashes", lambda nets: {"alex": "other"})
    assert kept() == 3


def test_differences_leave_out_what_needs_a_ground_truth(gt_folder: Path, tmp_path: Path) -> None:
    weights = save_tiny(tmp_path / "tiny.safetensors")
    methods = [{"name": "bicubic", "type": "bicubic"}, {"name": "tiny", "weights": [str(weights)]}]
    file = write_options(
        tmp_path / "mini.yml",
        datasets={"A": {"gt": str(gt_folder)}, "B": {"lq": str(gt_folder)}},
        methods=methods,
        metrics=["psnr_y", "consistency"],
        compare=[{"a": "tiny, 1 step", "b": "bicubic"}],
    )
    assert command.main(["-opt", str(file), "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/mini.json").read_text(encoding="utf-8"))["comparisons"]
    assert [(c["dataset"], c["metric"]) for c in found] == [("A", "psnr_y"), ("A", "consistency"), ("B", "consistency")]
    assert "nan" not in (tmp_path / "out/mini.md").read_text(encoding="utf-8")


def test_command_line_selects_methods_and_weights(gt_folder: Path, tmp_path: Path) -> None:
    weights = save_tiny(tmp_path / "tiny.safetensors")
    file = write_options(
        tmp_path / "mini.yml",
        datasets={"A": {"gt": str(gt_folder), "limit": 1}},
        methods=[
            {"name": "bicubic", "type": "bicubic"},
            {"name": "tiny", "weights": ["not/there.safetensors"], "steps": [2]},
        ],
        compare=[{"a": "tiny, 2 steps", "b": "bicubic"}],
    )
    arguments = ["-opt", str(file), "--out", str(tmp_path / "out")]
    assert command.main(arguments) == 2
    assert command.main([*arguments, "--weights", f"tiny={weights}"]) == 0
    assert set(results_of(tmp_path / "out")) == {("bicubic", "A"), ("tiny, 2 steps", "A")}
    assert command.main([*arguments, "--methods", "bicubic"]) == 0
    assert set(results_of(tmp_path / "out")) == {("bicubic", "A")}
    assert command.main([*arguments, "--methods", "bicubik"]) == 2


def test_several_weights_are_training_seeds_of_one_row(gt_folder: Path, tmp_path: Path) -> None:
    files = [save_tiny(tmp_path / "a.safetensors"), save_tiny(tmp_path / "b.safetensors", codec=OTHER_CODEC)]
    file = write_options(
        tmp_path / "mini.yml",
        datasets={"A": {"gt": str(gt_folder)}},
        methods=[{"name": "tiny", "weights": [str(f) for f in files]}],
    )
    assert command.main(["-opt", str(file), "--out", str(tmp_path / "out")]) == 0
    values = results_of(tmp_path / "out")["tiny, 1 step", "A"]["values"]["psnr_y"]
    assert np.shape(values) == (4, 3) and len({row[0] for row in values}) == 4


def test_images_are_saved_and_serve_as_a_folder_method(gt_folder: Path, tmp_path: Path) -> None:
    datasets = {"A": {"gt": str(gt_folder)}}
    file = write_options(tmp_path / "mini.yml", datasets=datasets, methods=[{"name": "bicubic", "type": "bicubic"}])
    out = tmp_path / "out"
    assert command.main(["-opt", str(file), "--out", str(out), "--save_images"]) == 0
    written = sorted((out / "images/A/bicubic").rglob("*.png"))
    assert [path.name for path in written] == ["img_0.png", "img_1.png", "img_2.png"]
    theirs = tmp_path / "theirs/A"
    theirs.mkdir(parents=True)
    for path in written:
        (theirs / f"{path.stem}_out.png").write_bytes(path.read_bytes())
    methods = [
        {"name": "bicubic", "type": "bicubic"},
        {"name": "theirs", "type": "folder", "path": str(tmp_path / "theirs"), "rewards": ["ssim"]},
    ]
    write_options(file, datasets=datasets, methods=methods)
    assert command.main(["-opt", str(file), "--out", str(out)]) == 0
    results = results_of(out)
    assert results["theirs", "A"]["values"] == results["bicubic", "A"]["values"]
    (theirs / "img_1_out.png").unlink()
    assert command.main(["-opt", str(file), "--out", str(out)]) == 2


def test_guidance_is_that_of_the_recipe(tmp_path: Path) -> None:
    pipeline = RestorationPipeline.from_pretrained(save_tiny(tmp_path / "tiny.safetensors"), "cpu", torch.float32)
    lq, plain = torch.rand(1, 3, 9, 9), pipeline.denoiser

    def draw(step: int) -> torch.Tensor:
        return field_noise(0, 48, 0, 0, 9, 9, step)

    recipe = replace(pipeline.header.recipe(3), guidance_scale=1.7)
    expected = pipeline.codec.decode(restore_latent(plain, pipeline.codec, lq, draw, recipe), lq).clamp(0, 1)
    pipeline.denoiser = GuidedDenoiser(plain, 1.7)
    torch.testing.assert_close(pipeline(lq, num_steps=3), expected, atol=1e-6, rtol=0)
    pipeline.denoiser = plain
    assert not torch.allclose(pipeline(lq, num_steps=3), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": ["psnr_y"]}, "metric: unknown key; did you mean 'metrics'?"),
        ({"metrics": ["psnr"]}, "unknown metric 'psnr'"),
        ({"methods": [{"name": "x", "type": "bicubik"}]}, "did you mean 'bicubic'"),
        ({"methods": [{"name": "x"}]}, "'weights' goes with type weights"),
        ({"methods": [{"name": "x", "type": "folder"}]}, "'path' goes with type folder"),
        ({"methods": [{"name": "x", "weights": ["none.safetensors"]}]}, "none.safetensors"),
        ({"methods": [{"name": "x", "type": "bicubic"}] * 2}, "methods of one name"),
        ({"seeds": []}, "at least one entry"),
        ({"datasets": {"A": {"gt": "${NOT_SET_ANYWHERE}/x"}}}, "environment variable"),
        ({"compare": [{"a": "bicubic", "b": "bicubik"}]}, "no row 'bicubik'"),
        ({"datasets": {"A": {"limit": 1}}}, "needs a folder 'gt', or 'lq' alone"),
        ({"scale": 1}, "at scale 1 the inputs must be given"),
    ],
)
def test_bad_options_are_one_line(
    gt_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    settings = {
        "datasets": {"A": {"gt": str(gt_folder), "limit": 1}},
        "methods": [{"name": "bicubic", "type": "bicubic"}],
    }
    file = write_options(tmp_path / "mini.yml", **{**settings, **changes})
    assert command.main(["-opt", str(file), "--out", str(tmp_path / "out")]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1 and message in error[0]


def test_shipped_options_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMD_RESTORE_ASSETS", "/somewhere")
    files = sorted((REPOSITORY / "options/benchmark").glob("*.yml"))
    assert files
    for file in files:
        options = load_benchmark_options(file)
        assert options.name == file.stem
        places = ("/somewhere/", "datasets/data/")
        folders = [folder for one in options.datasets.values() for folder in (one.gt, one.lq) if folder]
        assert folders and all(folder.startswith(places) for folder in folders)


def test_a_benchmark_builds_on_another_file(tmp_path: Path) -> None:
    below = tmp_path / "sets.yml"
    below.write_text("datasets: {A: {gt: a}, B: {gt: b, crop: 8}}\n")
    file = tmp_path / "top.yml"
    file.write_text(
        "base: sets.yml\nname: top\nmethods: [{name: b, type: bicubic}]\ndatasets: {B: {crop: 64}, A: null}\n"
    )
    assert load_benchmark_options(file).datasets == {"B": DatasetOptions(gt="b", crop=64)}
    file.write_text(file.read_text().replace("{crop: 64}", "{limit: 1}"))
    with pytest.raises(AMDRestoreError, match=r"sets.yml \(base of .*top.yml\): datasets.B.crop: must be at least 32"):
        load_benchmark_options(file)


# ---- the contact sheet ---------------------------------------------------------------------------------------------


def test_most_detailed_window_is_found() -> None:
    image = np.full((60, 80, 3), 128, np.uint8)
    image[30:46:2, 50:66] = 255
    top, left = panel.most_detailed(image, 20)
    assert 25 <= top <= 30 and 46 <= left <= 50
    assert panel.most_detailed(image[:10, :10], 20) == (0, 0)


def test_columns_have_names_of_their_own() -> None:
    names = ["runs/a/models/net_g_latest.safetensors", "other/a/models/net_g_latest.safetensors", "x4-real"]
    assert panel.distinct_names(names) == ["runs/a/net_g_latest", "other/a/net_g_latest", "x4-real"]


def test_panel(gt_folder: Path, tmp_path: Path) -> None:
    weights = save_tiny(tmp_path / "tiny.safetensors")
    out = tmp_path / "panel.png"
    arguments = ["--gt", str(gt_folder), "--weights", str(weights), "--steps", "1", "2", "--out", str(out)]
    folders = ["--folders", f"copy={gt_folder}"]
    assert panel.main([*arguments, *folders, "--crop", "40", "--zoom", "2", "--limit", "2"]) == 0
    sheet = read_rgb(out)
    # bicubic, two numbers of steps, the folder, ground truth; 2 pixels between
    assert sheet.shape == (2 * (80 + panel.LABEL_HEIGHT + 2), 5 * (80 + 2), 3)
    cells = [sheet[panel.LABEL_HEIGHT : panel.LABEL_HEIGHT + 80, i * 82 : i * 82 + 80] for i in range(5)]
    assert np.array_equal(cells[3], cells[4]) and not np.array_equal(cells[0], cells[4])
    assert panel.main(["--gt", str(tmp_path / "none"), "--out", str(out)]) == 2
