"""What training says about itself: windows, zones, the file, and that a resumed run writes the same."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from training_setup import load_miniature, make_data, run_training

from amd_restore.errors import AMDRestoreError
from amd_restore.losses import group_diversity, zone_cosine, zone_mean
from amd_restore.models.diagnostics import Diagnostics, DiagnosticsFile, read_diagnostics


def test_zone_cosine_sees_each_side_alone() -> None:
    target = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    inside = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    inside[0, :, :2] = True
    direction = torch.where(inside, -target, 2 * target)
    cos_in, cos_out = zone_cosine(direction, target, inside)
    assert cos_in[0] == pytest.approx(-1.0) and math.isnan(cos_in[1])
    assert cos_out.tolist() == pytest.approx([1.0, 1.0])
    whole_in, whole_out = zone_cosine(direction, target, torch.tensor([False, True]))
    assert math.isnan(whole_in[0]) and whole_in[1] == pytest.approx(1.0) and math.isnan(whole_out[1])


def test_zone_mean_and_diversity() -> None:
    values = torch.arange(8.0).reshape(2, 1, 2, 2)
    assert [float(v) for v in zone_mean(values, torch.tensor([True, False]))] == [1.5, 5.5]
    assert math.isnan(zone_mean(values, torch.tensor([True, True]))[1])
    images = torch.tensor([0.0, 1.0, 0.5, 0.5]).reshape(4, 1, 1, 1).expand(4, 3, 2, 2)
    assert group_diversity(images, 2).tolist() == [0.5, 0.0]
    assert group_diversity(images, 1).tolist() == [0.0] * 4


def test_a_window_is_a_mean_without_what_is_not_a_number() -> None:
    log = Diagnostics()
    log.add(amd__a=torch.tensor([1.0, math.nan]), b=torch.tensor(2.0))
    log.add(amd__a=torch.tensor([4.0, 7.0]))
    log.add(c=torch.tensor(math.nan))
    resumed = Diagnostics()
    resumed.load_state_dict(log.state_dict())
    for one in (log, resumed):
        means = one.read()
        assert means["amd/a"] == 4.0 and means["b"] == 2.0 and math.isnan(means["c"])
        assert one.read() == {}


def test_the_file_is_rewound_and_survives_a_killed_run(tmp_path: Path) -> None:
    file = DiagnosticsFile(tmp_path / "run" / "diagnostics.jsonl")
    assert file.rewind(10) == 0.0
    for iteration in (50, 100, 150):
        file.append(iter=iteration, seconds=float(iteration), values={"x": math.nan, "y": 1.0})
    with file.path.open("a", encoding="utf-8") as out:
        out.write('{"iter": 200, "sec')
    assert file.rewind(100) == 100.0
    rows = read_diagnostics(file.path)
    assert [row["iter"] for row in rows] == [50, 100] and rows[0]["values"] == {"x": None, "y": 1.0}
    file.path.write_text('nonsense\n{"iter": 1}\n', encoding="utf-8")
    with pytest.raises(AMDRestoreError, match="line 1"):
        read_diagnostics(file.path)
    with pytest.raises(AMDRestoreError, match="train the run first"):
        read_diagnostics(tmp_path / "nothing.jsonl")


def test_a_resumed_run_writes_what_the_straight_one_does(tmp_path: Path, assets: Path) -> None:
    make_data(tmp_path)
    warm = load_miniature("regression_x4_classical", tmp_path, iterations=2)
    assert run_training(warm, tmp_path).returncode == 0
    teacher = tmp_path / "experiments" / warm["name"] / "models" / "net_g_latest.pth"
    found = []
    for kind in ("straight", "resumed"):
        folder = tmp_path / kind
        folder.mkdir()
        make_data(folder)
        options = load_miniature("amd_x4_classical", folder, str(teacher), iterations=6)
        options["distill"].update(spatial=True)
        options["logger"].update(print_freq=3, save_checkpoint_freq=2)
        options["val"]["val_freq"] = 6
        if kind == "resumed":
            halted = run_training(options, folder, "--force_yml", "train:total_iter=5")
            assert halted.returncode == 0, halted.stderr
        result = run_training(options, folder, "--auto_resume")
        assert result.returncode == 0, result.stderr
        run = folder / "experiments" / options["name"]
        rows = read_diagnostics(run / "diagnostics.jsonl")
        for row in rows:
            assert row.pop("seconds") > 0
            row.get("values", {}).pop("amd/overhead", None)
        zones = np.load(run / "visualization" / "zones" / "zones_0000006.npz")
        found.append((json.dumps(rows), [zones[key] for key in sorted(zones)]))
        assert [row["iter"] for row in rows] == [3, 6, 6] and "psnr@1" in rows[2]["validation"]["free_photos_val"]
        wanted = {"forbidden_share", "clipped_share", "alpha_std", "beta_mean", "norm_matching", "norm_guidance"}
        wanted |= {"fake_loss_inside", "fake_loss_outside", "cosine_gt_inside", "cosine_gt_outside", "diversity"}
        assert {f"amd/{key}" for key in wanted} <= rows[0]["values"].keys()
    assert found[0][0] == found[1][0]
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert np.array_equal(a, b)
    advantage = found[0][1][0]
    assert advantage.ndim == 4 and np.abs(advantage).max() <= 1 and advantage.std() > 0
