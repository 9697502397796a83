"""Degradations, datasets, and data as a function of progress."""

from __future__ import annotations

import logging
import os
import pickle
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from amd_restore.data.crops_dataset import CropsDataset
from amd_restore.data.degradations import BicubicDegradation, build_degradation
from amd_restore.data.device_crops import DeviceCrops, lies_on_device
from amd_restore.data.gt_dataset import GTDataset, imresize
from amd_restore.data.image_files import usable_pairs
from amd_restore.data.resumable import DegradedPositions, PositionDataset, PositionSampler
from amd_restore.errors import AMDRestoreError
from amd_restore.options.basicsr import DatasetOptions
from amd_restore.options.blocks import DegradationOptions
from amd_restore.options.fields import defaults


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).random((height // 8 + 1, width // 8 + 1, 3)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


@pytest.mark.parametrize("scale", [2, 4])
def test_bicubic_degradation_is_matlabs_away_from_the_border(scale: int) -> None:
    gt = picture(96, 128)
    ours = BicubicDegradation(scale, quantize=False)(torch.from_numpy(gt.transpose(2, 0, 1))[None])
    theirs = torch.from_numpy(np.clip(imresize(gt, 1 / scale), 0, 1).transpose(2, 0, 1))
    inner = (slice(None), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(ours[0][inner], theirs[inner], rtol=0, atol=2e-5)


def test_degradation_rounds_to_bytes_and_scale_one_changes_nothing_else() -> None:
    gt = torch.rand(1, 3, 16, 16)
    lq = build_degradation({"type": "bicubic"}, 4)(gt)
    assert lq.shape == (1, 3, 4, 4)
    torch.testing.assert_close(lq * 255, (lq * 255).round(), rtol=0, atol=1e-4)
    assert torch.equal(build_degradation({"quantize": False}, 1)(gt), gt)
    with pytest.raises(AMDRestoreError, match="degradation.type: .*rain"):
        build_degradation({"type": "rain"}, 4)


def write_crops(folder: Path, count: int = 5, size: int = 32) -> Path:
    crops = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    np.save(folder / "crops.npy", crops)
    return folder / "crops.npy"


def test_crops_are_cut_from_the_array(tmp_path: Path) -> None:
    file = write_crops(tmp_path)
    source = np.load(file)
    dataset = CropsDataset(str(file), 32, use_hflip=False, use_rot=False)
    assert len(dataset) == 5
    item = dataset[3]["gt"]
    assert item.dtype == torch.float32
    torch.testing.assert_close(item.permute(1, 2, 0) * 255, torch.from_numpy(source[3]).float())
    turned = CropsDataset(str(file), 16)
    shapes = {tuple(turned[index % 5]["gt"].shape) for index in range(20)}
    assert shapes == {(3, 16, 16)}


def test_wrong_crops_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "flat.npy", np.zeros((4, 4)))
    for name, problem in (("none.npy", "no such"), ("text.npy", "not a NumPy array"), ("flat.npy", "expected uint8")):
        with pytest.raises(AMDRestoreError, match=f"{name}.*{problem}"):
            CropsDataset(str(tmp_path / name), 16)
    with pytest.raises(AMDRestoreError, match="smaller than gt_size"):
        CropsDataset(str(write_crops(tmp_path)), 64)


def test_a_pickled_dataset_holds_no_crops(tmp_path: Path) -> None:
    """Where workers are spawned, as under BasicSR's ``init_dist``, each unpickles the dataset."""
    dataset = CropsDataset(str(write_crops(tmp_path)), 32, use_hflip=False)
    packed = pickle.dumps(PositionDataset(dataset, seed=1))
    assert len(packed) < dataset.crops.nbytes / 4
    again = pickle.loads(packed)
    assert isinstance(again.dataset.crops, np.memmap)
    assert all(torch.equal(again[p]["gt"], PositionDataset(dataset, seed=1)[p]["gt"]) for p in range(7))
    degraded = DegradedPositions(again, build_degradation({"type": "second_order"}, 4), 4)
    assert torch.equal(pickle.loads(pickle.dumps(degraded))[5]["lq"], degraded[5]["lq"])


@pytest.mark.parametrize("turned", [{}, {"use_hflip": False}, {"use_rot": False}])
def test_crops_on_the_device_are_those_of_the_file(tmp_path: Path, turned: dict[str, bool]) -> None:
    opt: dict[str, Any] = {"crops_file": str(write_crops(tmp_path)), "gt_size": 20, **turned}

    def loader(dataset: CropsDataset) -> DataLoader[Any]:
        return DataLoader(PositionDataset(dataset, seed=2), batch_size=4, sampler=PositionSampler(8, 72))

    places = CropsDataset(**opt)
    places.only_places = True
    found = list(DeviceCrops(loader(places), places, torch.device("cpu")))
    expected = list(loader(CropsDataset(**opt)))
    assert len(found) == len(expected) == 16
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys() and ours["gt_path"] == theirs["gt_path"]
        assert torch.equal(ours["gt"], theirs["gt"]) and ours["gt"].is_contiguous()


def run_options(
    folder: Path, start: int, size: int = 16, rank: int = 0, world: int = 1, **train: Any
) -> dict[str, Any]:
    """What the loaders of a run of 6 iterations of 4 images look at; it goes on after ``start``."""
    block = {"type": "CropsDataset", "name": "crops", "crops_file": str(write_crops(folder)), "gt_size": size,
             **defaults(DatasetOptions), "batch_size_per_gpu": 4 // world, **train}  # fmt: skip
    return {"datasets": {"train": block}, "train": {"total_iter": 6}, "num_gpu": 0, "rank": rank, "world_size": world,
            "manual_seed": 5, "resume_iter": start, "opt_path": "options.yml", "scale": 4}  # fmt: skip


def test_the_batches_of_a_run_do_not_depend_on_where_crops_lie(tmp_path: Path) -> None:
    from amd_restore.training.loaders import create_dataloaders

    def batches(wish: str, start: int) -> list[torch.Tensor]:
        opt = run_options(tmp_path, start, on_device=wish)
        return [batch["gt"] for batch in create_dataloaders(opt, logging.getLogger("test"))[0]]

    whole = batches("never", 0)
    assert len(whole) == 6
    for start in (0, 2):
        assert all(torch.equal(a, b) for a, b in zip(batches("always", start), whole[start:], strict=True))


def test_workers_degrade_as_the_model_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any number of processes, and after a resume."""
    from amd_restore.models import restoration_model
    from amd_restore.models.teacher_model import TeacherModel
    from amd_restore.training.loaders import create_dataloaders

    block = {"type": "second_order", "second": {"jpeg_prob": 0.5}}

    def batches(start: int = 0, rank: int = 0, world: int = 1, workers: int = 0) -> list[torch.Tensor]:
        opt = run_options(tmp_path, start, 32, rank, world, num_worker_per_gpu=workers) | {"degradation": block}
        monkeypatch.setattr(restoration_model, "process_rank", lambda: rank)
        model: Any = object.__new__(TeacherModel)
        model.run, model.device = SimpleNamespace(manual_seed=opt["manual_seed"]), "cpu"
        model.degradation = build_degradation(block, 4)
        found = []
        for model.current_iter, batch in enumerate(create_dataloaders(opt, logging.getLogger("test"))[0], start):
            assert ("lq" in batch) == (workers > 0)
            model.feed_data(batch)
            found.append(model.lq)
        return found

    def same(a: torch.Tensor, b: torch.Tensor) -> bool:
        # Not bit for bit: a matrix product may round otherwise for another number of rows.
        return a.shape == b.shape and float((a == b).float().mean()) > 0.99

    whole = batches()
    assert len(whole) == 6 and not same(whole[0], whole[1])
    assert all(same(a, b) for a, b in zip(batches(workers=2), whole, strict=True))
    assert all(same(a, b) for a, b in zip(batches(start=3, workers=1), whole[3:], strict=True))
    second = batches(rank=1, world=2, workers=1)
    assert all(same(a, b[2:]) for a, b in zip(second, whole, strict=True))


def test_which_crops_lie_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = CropsDataset(str(write_crops(tmp_path)), 16)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert lies_on_device(dataset, "always", cpu) and not lies_on_device(dataset, "auto", cpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for room, fits in ((5, True), (3, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, room=room: (room * dataset.crops.nbytes, 10**12))
        assert lies_on_device(dataset, "auto", gpu) == fits
    assert not lies_on_device(dataset, "never", gpu)
    assert not lies_on_device(Noisy(), "auto", gpu)
    with pytest.raises(AMDRestoreError, match="on_device: only CropsDataset"):
        lies_on_device(Noisy(), "always", gpu)


def write_pictures(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    folder.mkdir()
    for index, (height, width) in enumerate(sizes):
        cv2.imwrite(str(folder / f"{index}.png"), (picture(height, width, index) * 255).round().astype(np.uint8))
    return folder


def test_gt_alone_gets_matlabs_low_quality_side(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "gt", [(70, 90), (64, 64)])
    dataset = GTDataset(str(folder), 4)
    item = dataset[0]
    assert item["gt"].shape == (3, 64, 80) and item["lq"].shape == (3, 16, 20)
    expected = np.clip(imresize(item["gt"].permute(1, 2, 0).numpy(), 0.25), 0, 1)
    torch.testing.assert_close(
        item["lq"].permute(1, 2, 0), torch.from_numpy((expected * 255).round() / 255).float(), rtol=0, atol=1e-6
    )
    assert len(GTDataset(str(folder), 4, limit=1)) == 1


def test_pairs_must_match(tmp_path: Path) -> None:
    gt, lq = write_pictures(tmp_path / "gt", [(64, 64)] * 2), write_pictures(tmp_path / "lq", [(16, 16)] * 2)
    item = GTDataset(str(gt), 4, str(lq))[1]
    assert item["gt"].shape == (3, 64, 64) and item["lq"].shape == (3, 16, 16)
    (lq / "1.png").unlink()
    with pytest.raises(AMDRestoreError, match="gt/1.png: no 1.* for it in .*lq, which has 0.png"):
        GTDataset(str(gt), 4, str(lq))
    for bad in (tmp_path / "none", tmp_path):
        with pytest.raises(AMDRestoreError, match="no "):
            GTDataset(str(bad), 4)


class Noisy(Dataset[Any]):
    """Items that depend on all three global generators, as augmentations do."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([index, random.random(), np.random.random(), float(torch.rand(()))], dtype=torch.float64)


def test_images_above_the_limit_of_the_decoder_are_left_out_by_that_reason(tmp_path: Path) -> None:
    for folder, side in (("gt", 32), ("lq", 8)):
        (tmp_path / folder).mkdir()
        for name in ("a.png", "b.png", "vast.bmp"):
            cv2.imwrite(str(tmp_path / folder / name), np.zeros((side, side, 3), np.uint8))
    vast = bytearray((tmp_path / "lq" / "vast.bmp").read_bytes())
    vast[18:26] = np.array([20_000, 20_000], "<i4").tobytes()
    (tmp_path / "lq" / "vast.bmp").write_bytes(vast)
    (tmp_path / "gt" / "b.png").write_text("no image")
    dataset = GTDataset(str(tmp_path / "gt"), 4, str(tmp_path / "lq"))
    reasons = ["b.png (cannot be read)", "vast.bmp (more than 179 megapixels; cut it up)"]
    assert len(dataset) == 1 and dataset.left_out == reasons
    paths = [
        {f"{side}_path": str(tmp_path / side / name) for side in ("gt", "lq")} for name in os.listdir(tmp_path / "gt")
    ]
    usable, left_out = usable_pairs(paths, 8, 4)
    assert len(usable) == 1 and left_out == reasons


def test_positions_repeat_after_a_resume_whatever_the_workers() -> None:
    dataset = PositionDataset(Noisy(), seed=3)
    whole = torch.cat(list(DataLoader(dataset, batch_size=4, sampler=PositionSampler(0, 24))))
    rest = DataLoader(PositionDataset(Noisy(), seed=3), batch_size=4, sampler=PositionSampler(8, 24), num_workers=2)
    assert torch.equal(torch.cat(list(rest)), whole[8:])
    assert sorted(whole[:7, 0].tolist()) == list(range(7))  # a pass shows every item once
    assert whole[:7, 0].tolist() != whole[7:14, 0].tolist()
    assert len({tuple(row) for row in whole.tolist()}) == 24
    other = torch.cat(list(DataLoader(PositionDataset(Noisy(), seed=4), batch_size=4, sampler=PositionSampler(0, 24))))
    assert not torch.equal(other, whole)


def test_two_processes_share_the_positions_of_one() -> None:
    shares = [list(PositionSampler(0, 6, rank, 2)) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == list(range(12)) and not set(shares[0]) & set(shares[1])


def test_items_leave_the_global_generators_alone() -> None:
    dataset = PositionDataset(Noisy(), seed=0)

    def state() -> Any:
        legacy: Any = np.random.get_state()
        return random.getstate(), legacy[1].tolist(), torch.get_rng_state().tolist()

    before = state()
    assert dataset[5].shape == (4,)
    assert before == state()


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ({"first": {"jpeg_quality": [30, 101]}}, "degradation.first.jpeg_quality"),
        ({"first": {"blur_sigma": [3, 1]}}, "degradation.first: blur_sigma needs two numbers"),
        ({"second": {"kernel_weights": [1, 0]}}, "degradation.second: kernel_weights needs 6"),
        ({"second": {"resize_range": [0.3, 0.9]}}, "resize_range must contain 1"),
        ({"type": "bicubic", "final_sinc_prob": 0.1}, "final_sinc_prob: only type second_order"),
        ({"third": {}}, "degradation.third: unknown key"),
    ],
)
def test_wrong_options_are_named(block: dict[str, Any], problem: str) -> None:
    with pytest.raises(AMDRestoreError, match=problem):
        build_degradation({"type": "second_order", **block}, 4)


def test_everything_can_be_switched_off() -> None:
    off = {"blur_prob": 0, "noise_prob": 0, "jpeg_prob": 0, "resize_weights": [0, 0, 1]}
    block = {"type": "second_order", "first": off, "second": off, "final_sinc_prob": 0, "quantize": False}
    gt = torch.rand(2, 3, 16, 16)
    assert torch.equal(build_degradation(block, 1)(gt), gt)
    partly = DegradationOptions(type="second_order")
    assert partly.second.blur_sigma == [0.2, 1.5] and partly.first.blur_sigma == [0.2, 3.0]


def test_validation_images_are_degraded_by_name_and_seed(tmp_path: Path) -> None:
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), (picture(48, 64, ord(name)) * 255).round().astype(np.uint8))
    opt: dict[str, Any] = {"dataroot_gt": str(tmp_path), "scale": 4, "degradation": {"type": "second_order"}}
    dataset = GTDataset(**opt)
    first = [dataset[i]["lq"] for i in range(3)]
    assert first[0].shape == (3, 12, 16) and first[0].dtype == torch.float32
    assert torch.equal(dataset[2]["lq"], first[2])
    (tmp_path / "a.png").unlink()
    assert torch.equal(GTDataset(**opt)[0]["lq"], first[1])
    assert not torch.equal(GTDataset(**opt | {"degradation_seed": 1})[0]["lq"], first[1])
    assert not torch.equal(GTDataset(**opt | {"degradation": {"type": "bicubic"}})[0]["lq"], first[1])


def test_training_batches_are_a_function_of_the_iteration() -> None:
    from amd_restore.models.teacher_model import TeacherModel

    def lq_after(iteration: int, before: int = 0) -> torch.Tensor:
        model: Any = object.__new__(TeacherModel)
        model.run, model.device, model.current_iter = SimpleNamespace(manual_seed=4), "cpu", iteration
        model.degradation = build_degradation({"type": "second_order"}, 4)
        model.degradation.reseed(before)
        model.feed_data({"gt": torch.from_numpy(picture(48, 48).transpose(2, 0, 1))[None]})
        lq: torch.Tensor = model.lq
        return lq

    assert torch.equal(lq_after(5), lq_after(5, before=1))
    assert not torch.equal(lq_after(5), lq_after(6))


def test_batches_are_sent_without_waiting() -> None:
    """From page-locked memory the copy then runs beside the computation."""
    from amd_restore.models.teacher_model import TeacherModel

    class Sent:
        def to(self, device: str, non_blocking: bool = False) -> tuple[str, bool]:
            return device, non_blocking

    model: Any = object.__new__(TeacherModel)
    model.device = "cpu"
    model.feed_data({"gt": Sent(), "lq": Sent()})
    assert model.gt == model.lq == ("cpu", True)
