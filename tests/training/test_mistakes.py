"""Mistakes in options and data are one line before the first iteration; what is left out or changed is said."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from training_setup import StartWeights, load_started, make_data, run_training

from amd_restore.atomic import held
from amd_restore.data.gt_dataset import GTDataset
from amd_restore.errors import AMDRestoreError

Options = dict[str, Any]


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> StartWeights:
    """Weights to start from."""
    return StartWeights(tmp_path_factory.mktemp("start"))


def miniature(
    folder: Path, starts: StartWeights, name: str = "regression_x4_classical", iterations: int = 2
) -> Options:
    """A run of two iterations with its data."""
    make_data(folder)
    options = load_started(name, folder, starts, iterations=2)
    options["datasets"]["val"].pop("limit")
    return options


def write_image(file: Path, height: int, width: int) -> None:
    """A noisy image."""
    file.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(file), np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_pairs(folder: Path, gt: dict[str, int], lq: dict[str, int]) -> Options:
    """Square images by name and side; the options that name their folders."""
    for side, files in (("gt", gt), ("lq", lq)):
        (folder / side).mkdir()
        for name, size in files.items():
            write_image(folder / side / name, size, size)
    return {"dataroot_gt": str(folder / "gt"), "dataroot_lq": str(folder / "lq")}


def refused(options: Options, folder: Path, *arguments: str) -> str:
    """The one line with which a run is refused before its first iteration."""
    result = run_training(options, folder, *arguments)
    said = result.stdout + result.stderr
    assert result.returncode == 2 and "Traceback" not in said and "Start training" not in said, said[-2000:]
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    return line


def paired(options: Options, **changes: Any) -> None:
    """Train on BasicSR's pairs."""
    block = {"name": "pairs", "type": "PairedImageDataset", "gt_size": 48, "batch_size_per_gpu": 1, **changes}
    options["datasets"]["train"] = block


def empty_array(options: Options, folder: Path) -> None:
    """Crops of which there are none."""
    np.save(folder / "crops.npy", np.zeros((0, 96, 96, 3), np.uint8))


def missing_folder(options: Options, folder: Path) -> None:
    """Pairs in a folder that is not there."""
    paired(options, **write_pairs(folder, {"a.png": 96}, {"a.png": 24}) | {"dataroot_lq": str(folder / "nowhere")})


def missing_list(options: Options, folder: Path) -> None:
    """A list of pairs that is not there."""
    paired(options, **write_pairs(folder, {"a.png": 96}, {"a.png": 24}), meta_info_file=str(folder / "none.txt"))


def empty_list(options: Options, folder: Path) -> None:
    """A list of no pairs."""
    (folder / "list.txt").write_text("")
    paired(options, **write_pairs(folder, {"a.png": 96}, {"a.png": 24}), meta_info_file=str(folder / "list.txt"))


def unequal_counts(options: Options, folder: Path) -> None:
    """A clean image more."""
    paired(options, **write_pairs(folder, {"a.png": 96, "b.png": 96}, {"a.png": 24}))


def folders_as_databases(options: Options, folder: Path) -> None:
    """Folders read as LMDB."""
    roots = write_pairs(folder, {"a.png": 96}, {"a.png": 24})
    paired(options, **roots, io_backend={"type": "lmdb"})


def equal_sizes(options: Options, folder: Path) -> None:
    """Low-quality images as large as the clean ones."""
    paired(options, **write_pairs(folder, {"a.png": 96}, {"a.png": 96}))


def too_small(options: Options, folder: Path) -> None:
    """Nothing as large as a crop."""
    paired(options, **write_pairs(folder, {"a.png": 32}, {"a.png": 8}))


def no_crop_size(options: Options, folder: Path) -> None:
    """Images of many sizes in a batch."""
    paired(options, **write_pairs(folder, {"a.png": 96}, {"a.png": 24}))
    del options["datasets"]["train"]["gt_size"]


def wrong_names(options: Options, folder: Path) -> None:
    """Low-quality images of other names."""
    options["datasets"]["val"].update(write_pairs(folder, {"1.png": 96}, {"1x4.png": 24}), gt_size=0)


def wrong_sizes(options: Options, folder: Path) -> None:
    """Low-quality images of another size."""
    options["datasets"]["val"].update(write_pairs(folder, {"1.png": 96}, {"1.png": 32}), gt_size=0)


def metric_of_large_images(options: Options, folder: Path) -> None:
    """Images that are smaller than what a metric cuts off."""
    options["val"]["metrics"]["niqe"] = {"type": "calculate_niqe", "crop_border": 60}


def wrong_template(options: Options, folder: Path) -> None:
    """A name that does not depend on the image."""
    roots = write_pairs(folder, {"1.png": 96}, {"1.png": 24})
    options["datasets"]["val"].update(roots, gt_size=0, filename_tmpl="x4")


def only_broken(options: Options, folder: Path) -> None:
    """A validation folder of text."""
    for file in (folder / "val").iterdir():
        file.write_text("no image")


MISTAKES: dict[str, tuple[Callable[[Options, Path], Any], str]] = {
    "no_gt_size": (lambda o, _: o["datasets"]["train"].pop("gt_size"), "datasets.train.gt_size: missing; CropsDataset"),
    "gt_size_0": (lambda o, _: o["datasets"]["train"].update(gt_size=0), "datasets.train.gt_size: must be at least 1"),
    "empty_array": (empty_array, "datasets.train: .*crops.npy: holds no crops"),
    "prefetch": (lambda o, _: o["datasets"]["train"].update(prefetch_mode="cuda"), "datasets.train.prefetch_mode: "),
    "wandb": (lambda o, _: o["logger"].update(wandb={"project": "x"}), "logger: wandb.project needs use_tb_logger"),
    "path_as_name": (lambda o, _: o.update(name="a\\b"), r"name: 'a\\\\b' must be the name of a folder"),
    "folder_above": (lambda o, _: o["datasets"]["val"].update(name=".."), "datasets.val.name: '..' must be the name"),
    "missing_folder": (missing_folder, "datasets.train: dataroot_lq: .*nowhere: no such folder"),
    "missing_list": (missing_list, "datasets.train: meta_info_file: .*none.txt: no such file"),
    "empty_list": (empty_list, "datasets.train: no usable image"),
    "unequal_counts": (
        unequal_counts,
        "datasets.train: PairedImageDataset: AssertionError: .*different number of",
    ),
    "folders_as_databases": (
        folders_as_databases,
        "datasets.train: dataroot_gt: .*io_backend lmdb takes folders",
    ),
    "equal_sizes": (equal_sizes, "datasets.train: .*lq/a.png is 96x96, .*gt/a.png is 96x96: not 4 times"),
    "too_small": (too_small, "datasets.train: no usable image; left out: a.png .32x32, less than 48 pixels."),
    "no_crop_size": (no_crop_size, "datasets.train.gt_size: missing; training takes crops"),
    "wrong_names": (
        wrong_names,
        r"datasets.val: .*gt/1.png: no 1.\* for it in .*lq, which has 1x4.png; set file",
    ),
    "wrong_sizes": (wrong_sizes, "datasets.val: .*lq/1.png is 32x32, .*gt/1.png is 96x96: not 4 times"),
    "wrong_template": (wrong_template, "datasets.val: filename_tmpl: 'x4' must hold {}"),
    "metric": (metric_of_large_images, "val.metrics.niqe: fails on an image of datasets.val, .*0.png .208x112.: "),
    "only_broken": (only_broken, "datasets.val: .*val: no usable image; left out: 0.png .cannot be read."),
    "negative": (
        lambda o, _: o["network_g"].update(num_feat=-1),
        "network_g.num_feat: must be at least 1, got -1",
    ),
    "large_batch": (
        lambda o, _: o["datasets"]["train"].update(batch_size_per_gpu=10**8),
        r"datasets.train.batch_size_per_gpu: 100000000 crops of 48x48 take at least \d+\.\d GiB, .* are free",
    ),
    "no_batch": (lambda o, _: o["datasets"]["train"].update(batch_size_per_gpu=0), "batch_size_per_gpu: must be at le"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_before_the_first_iteration(mistake: str, tmp_path: Path, starts: StartWeights) -> None:
    make, expected = MISTAKES[mistake]
    options = miniature(tmp_path, starts)
    make(options, tmp_path)
    line = refused(options, tmp_path)
    assert re.search(expected, line), line


def test_a_missing_package_for_logs_is_named(
    tmp_path: Path, starts: StartWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else real(name, *rest))
    options = miniature(tmp_path, starts)
    options["logger"].update(use_tb_logger=True, wandb={"project": "x"})
    assert "logger.wandb.project: needs the package wandb" in refused(options, tmp_path)


def test_what_cannot_be_used_is_left_out_with_a_count(tmp_path: Path, starts: StartWeights) -> None:
    options = miniature(tmp_path, starts)
    val = tmp_path / "val"
    (val / "._0.png").write_bytes(b"\0\5\26\7")
    (val / "text.png").write_text("no image")
    whole = (val / "0.png").read_bytes()
    (val / "half.png").write_bytes(whole[: len(whole) // 2])
    write_image(val / "tiny.png", 9, 9)
    roots = write_pairs(tmp_path, {"a.png": 96, "b.png": 96, "c.png": 32}, {"a.png": 24, "b.png": 24, "c.png": 8})
    (tmp_path / "lq" / "b.png").write_text("no image")
    paired(options, **roots)
    options["datasets"]["val_2"] = {"name": "again", "type": "GTDataset", "dataroot_gt": str(val), "limit": 1}
    result = run_training(options, tmp_path)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert "datasets.train: 2 of 3 files are left out: b.png (cannot be read), c.png (32x32, less than" in said
    assert "datasets.val: 4 of 6 files are left out: ._0.png (hidden), half.png (cannot be read), text.png" in said
    assert "datasets.val_2: 1 of 2 files are left out: ._0.png (hidden)" in said and "psnr@1" in said


def test_the_test_command_looks_at_its_data_too(tmp_path: Path, starts: StartWeights) -> None:
    options = miniature(tmp_path, starts)
    (tmp_path / "val" / "._0.png").write_bytes(b"\0\5\26\7")
    result = run_training(options, tmp_path, script="test.py")
    said = result.stdout + result.stderr
    assert result.returncode == 0 and "datasets.val: 1 of 3 files are left out: ._0.png (hidden)" in said, said
    assert "datasets.train" not in said
    metric_of_large_images(options, tmp_path)
    result = run_training(options, tmp_path, script="test.py")
    assert result.returncode == 2 and "val.metrics.niqe: fails on an image of datasets.val" in result.stderr
    del options["datasets"]["val"]
    result = run_training(options, tmp_path, script="test.py")
    assert result.returncode == 2 and "datasets: only 'train'; a test needs one named val or test" in result.stderr


def test_pairs_go_by_name(tmp_path: Path) -> None:
    names = ("1", "2", "10")
    roots = write_pairs(tmp_path, {f"{name}.png": 32 for name in names}, {})
    for index, name in enumerate(names):
        cv2.imwrite(str(tmp_path / "lq" / f"{name}x4.jpg"), np.full((8, 8, 3), 50 * index, np.uint8))
    cv2.imwrite(str(tmp_path / "lq" / "3x4.png"), np.zeros((8, 8, 3), np.uint8))  # of no clean image
    dataset = GTDataset(**roots, scale=4, filename_tmpl="{}x4")
    items = {Path(item["gt_path"]).stem: item for item in map(dataset.__getitem__, range(len(dataset)))}
    assert {name: Path(item["lq_path"]).name for name, item in items.items()} == {n: f"{n}x4.jpg" for n in names}
    means = [round(float(items[name]["lq"].mean()) * 255) for name in names]
    assert means == [0, 50, 100]
    (tmp_path / "lq" / "1x4.png").write_bytes((tmp_path / "lq" / "1x4.jpg").read_bytes())
    with pytest.raises(AMDRestoreError, match="1x4.jpg and 1x4.png: two low-quality images of one name"):
        GTDataset(**roots, scale=4, filename_tmpl="{}x4")


def test_changed_options_are_said_when_a_run_goes_on(tmp_path: Path, starts: StartWeights) -> None:
    options = miniature(tmp_path, starts)
    assert run_training(options, tmp_path).returncode == 0
    options["train"]["optim_g"]["lr"] = 1e-5
    options["train"]["total_iter"] = 3
    options["manual_seed"] = 7
    options["val"].pop("panels")
    result = run_training(options, tmp_path, "--auto_resume")
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    keep = "(without effect: the run goes on with its own)"
    assert re.search(rf"changed since the last session: train.optim_g.lr: 0.\d+ -> 1e-05 {re.escape(keep)}", said)
    assert "changed since the last session: manual_seed: 0 -> 7 (from here on)" in said
    assert "changed since the last session: train.total_iter: 2 -> 3 (from here on)" in said
    assert said.count("changed since the last session") == 4
    again = run_training(options, tmp_path, "--auto_resume")
    assert "changed since the last session" not in again.stdout + again.stderr
    options["train"]["optim_g"] = {"type": "SGD", "lr": 1e-5}
    assert "train.optim_g.type: was Adam, now SGD" in refused(options, tmp_path, "--auto_resume")


def test_a_run_goes_on_with_other_rewards(tmp_path: Path, starts: StartWeights) -> None:
    """Their statistics begin anew; what has no state in the file, or another one, is refused in one line.

    The teacher, which is not saved, comes from its own file again, whether or not the options say so.
    """
    options = miniature(tmp_path, starts, "amd_x4_classical")
    del options["val"], options["datasets"]["val"], options["path"]["ignore_resume_networks"]
    assert run_training(options, tmp_path).returncode == 0

    outputs: list[str] = []

    def train_on(total_iter: int, **changes: Any) -> dict[str, Any]:
        options["train"]["total_iter"] = total_iter
        result = run_training({**options, **changes}, tmp_path, "--auto_resume")
        outputs.append(result.stdout + result.stderr)
        assert result.returncode == 0, outputs[-1]
        state: dict[str, Any] = torch.load(
            tmp_path / "experiments" / options["name"] / "training_states" / f"{total_iter}.state", weights_only=True
        )
        return state["extra"]

    assert len(train_on(4)["reward"]["std"]) == len(options["rewards"]) == 2
    psnr = train_on(6, rewards=[{"type": "PSNRReward"}])
    assert len(psnr["reward"]["std"]) == 1 and psnr["reward"]["updates"] == 2
    assert "reward" not in train_on(8, model_type="DMDModel")
    teacher = Path(options["path"]["pretrain_network_teacher"])
    options["path"]["pretrain_network_teacher"] = str(shutil.copy(teacher, tmp_path / "other.pth"))
    assert train_on(10)["reward"]["updates"] == 2
    assert re.search(r"path.pretrain_network_teacher: \S+ -> \S+other.pth \(from here on\)", outputs[-1])
    options["train"]["total_iter"] = 12
    line = refused({**options, "model_type": "SupervisedModel"}, tmp_path, "--auto_resume")
    assert "10.state: is the state of other options (Wrong lengths of optimizers)" in line


def test_a_run_is_trained_by_one_process(tmp_path: Path, starts: StartWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one would delete states that the first one counts on, or move the folder away under it."""
    options = miniature(tmp_path, starts)
    assert run_training(options, tmp_path).returncode == 0
    monkeypatch.setattr("amd_restore.training.pipeline.LOCKED", 0.0)
    folder = tmp_path / "experiments" / options["name"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with held(folder.with_name(f".{folder.name}.lock"), "free"):
        for arguments in ([], ["--auto_resume"]):
            assert "is being trained by another process" in refused(options, tmp_path, *arguments)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run_training(options, tmp_path, "--auto_resume").returncode == 0


@pytest.mark.parametrize("name", ["regression_x4_classical", "amd_x4_classical"])
def test_a_check_tries_all_and_keeps_nothing(name: str, tmp_path: Path, starts: StartWeights) -> None:
    options = miniature(tmp_path, starts, name)
    options["logger"]["use_tb_logger"] = True
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    result = run_training(options, tmp_path, "--check")
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert f"Checked {tmp_path / options['name']}.yml: options, data, networks, one iteration" in said
    assert {path for path in tmp_path.rglob("*") if path.is_file()} - before == {tmp_path / f"{options['name']}.yml"}


def test_a_check_says_what_fails_in_one_line(
    tmp_path: Path, starts: StartWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amd_restore.models.supervised_model import SupervisedModel

    def fail(model: SupervisedModel, iteration: int) -> None:
        assert iteration == 4, "the student is updated in every fourth"
        raise RuntimeError("sizes\ndiffer")

    options = miniature(tmp_path, starts)
    options["distill"] = {"fake_updates_per_student": 4}
    monkeypatch.setattr(SupervisedModel, "optimize_parameters", fail)
    line = refused(options, tmp_path, "--check")
    assert line == "error: the first iteration fails: RuntimeError: sizes differ; --debug shows where"


def test_a_check_of_a_run_that_goes_on(tmp_path: Path, starts: StartWeights) -> None:
    options = miniature(tmp_path, starts)
    assert run_training(options, tmp_path).returncode == 0
    states = tmp_path / "experiments" / options["name"] / "training_states"
    before = {path: path.stat().st_mtime_ns for path in states.parent.rglob("*")}
    options["train"]["total_iter"] = 4
    result = run_training(options, tmp_path, "--check", "--auto_resume", "--processes", "2")
    said = result.stdout + result.stderr
    assert result.returncode == 0 and "train.total_iter: 2 -> 4 (from here on)" in said, said
    assert {path: path.stat().st_mtime_ns for path in states.parent.rglob("*")} == before
    next(states.glob("2.state")).write_bytes(b"damaged")
    assert "cannot resume from this file" in refused(options, tmp_path, "--check", "--auto_resume")
