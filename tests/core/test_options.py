"""options: every slip in an option file is one line that names file, key and the nearest known key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from option_files import OPTIONS, problem, write

from amd_restore.errors import AMDRestoreError
from amd_restore.options import RunOptions, check_devices, load_options, read_yaml
from amd_restore.options.__main__ import reference


def cosine(periods: list[int], restart_weights: list[float] | None = None) -> dict[str, Any]:
    """A cosine schedule; without weights BasicSR has one."""
    given = {} if restart_weights is None else {"restart_weights": restart_weights}
    return {"type": "CosineAnnealingRestartLR", "periods": periods, **given}


def test_good_file(tmp_path: Path) -> None:
    file = write(tmp_path)
    opt = load_options(file)
    run = RunOptions.from_dict(opt, file)
    assert opt["codec"] == {"patch": 4, "std": 0.07} and run.codec.type == "residual"
    assert run.distill.num_steps == [1, 2] and run.distill.group_size == 4
    assert run.datasets["train"].arguments == {"crops_file": "crops.npy", "gt_size": 32}
    assert [(r.type, r.weight, r.arguments) for r in run.rewards] == [("PSNRReward", 2.0, {})]
    assert run.train is not None and (run.train.optim_g.lr, run.train.optim_g.arguments) == (0.001, {})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("distil", {}, "distil: unknown key; did you mean 'distill'?"),
        ("distill.group_sise", 4, "distill.group_sise: unknown key; did you mean 'group_size'?"),
        ("train.optim_g.learning_rate", 1.0, "train.optim_g.learning_rate: Adam has no such argument"),
        ("datasets.train.gt_sise", 32, "datasets.train.gt_sise: CropsDataset has no such argument; did you mean 'gt_s"),
        ("datasets.train.limit", 1, "datasets.train.limit: CropsDataset has no such argument"),
        ("datasets.train.gt_size", None, "datasets.train.gt_size: missing; CropsDataset needs it"),
        ("datasets.train.gt_size", 0, "datasets.train.gt_size: must be at least 1, got 0"),
        (
            "datasets.train.batch_size",
            4,
            "datasets.train.batch_size: CropsDataset has no such argument; did you mea",
        ),
        ("datasets.val", {"name": "v", "type": "PairedImageDataset", "dataroot_gt": "a"}, "val.dataroot_lq: missing"),
        (
            "datasets.val",
            {"name": "v", "type": "GTDataset", "dataroot_gt": "a", "scale": 2},
            "GTDataset has no such",
        ),
        (
            "datasets.val",
            {"name": "v", "type": "GTDataset", "dataroot_gt": "a", "limit": 0},
            "val.limit: must be at",
        ),
        ("val.metrics.psnr.crop_boarder", 4, "did you mean 'crop_border'?"),
        ("network_g.num_feats", 8, "network_g.num_feats: FlatDenoiser has no such argument; did you mean 'num_feat'?"),
        ("network_g.type", "FlatDenoisr", "network_g.type: unknown architecture 'FlatDenoisr'; did you mean"),
        ("rewards", [{"type": "PSNRReward", "net": "alex"}], "rewards.0.net: PSNRReward has no such argument"),
        ("rewards", [{"type": "PSNRReward", "device": "cuda"}], "rewards.0.device: PSNRReward has no such argument"),
        ("rewards", [{"weight": 1.0}], "rewards.0.type: missing"),
        ("model_type", "AMDModle", "model_type: unknown model 'AMDModle'; did you mean 'AMDModel'?"),
        ("datasets.train.type", "CropDataset", "unknown dataset 'CropDataset'; did you mean 'CropsDataset'?"),
        (
            "datasets.trian",
            {"name": "a", "type": "GTDataset", "dataroot_gt": "a"},
            "trian: unknown phase; did you mean 'train'?",
        ),
        ("name", None, "name: missing"),
        ("train.total_iter", None, "train.total_iter: missing"),
        ("train.total_iter", "soon", "train.total_iter: expected a whole number, got str 'soon'"),
        ("train.total_iter", 2.5, "train.total_iter: expected a whole number, got float 2.5"),
        ("train.optim_g.lr", "fast", "train.optim_g.lr: expected a number, got str 'fast'"),
        ("train.optim_g.lr", 0, "train.optim_g.lr: must be greater than 0, got 0"),
        ("train.optim_g.lr", float("nan"), "train.optim_g.lr: expected a number"),
        ("train.optim_g", [1], "train.optim_g: expected keys and values, got list [1]"),
        ("train.optim_g.type", "AdmW", "train.optim_g.type: unknown optimizer 'AdmW'; did you mean 'AdamW'?"),
        ("train.optim_g.type", "LBFGS", "train.optim_g: LBFGS cannot be used so: "),
        ("train.optim_g.type", "Muon", "train.optim_g: Muon cannot be used so: "),
        ("train.optim_g.type", "SparseAdam", "train.optim_g: SparseAdam cannot be used so: "),
        ("train.optim_g.lr", None, "train.optim_g.lr: missing"),
        ("train.optim_g.params", [], "train.optim_g.params: Adam has no such argument"),
        ("train.optim_g.momentum", 0.9, "train.optim_g.momentum: Adam has no such argument"),
        ("train.optim_g.weight_decay", "no", "train.optim_g.weight_decay: expected a number, got str 'no'"),
        ("train.optim_g.betas", [0.9], "train.optim_g.betas: expected 2 values, got 1"),
        ("train.optim_g.betas", [0.9, 1.0], "train.optim_g: Adam cannot be used so: Invalid beta parameter at index 1"),
        ("train.scheduler.gamma", -1, "must be greater than 0, got -1"),
        ("train.scheduler.periods", [4], "MultiStepLR has no periods"),
        ("train.scheduler", cosine([2, 2]), "train.scheduler: restart_weights has 1 entries, periods 2"),
        ("train.scheduler", cosine([4], [1, 1]), "train.scheduler: restart_weights has 2 entries, periods 1"),
        ("train.scheduler.restart_weights", [1], "train.scheduler: MultiStepLR has no restart_weights"),
        ("train.scheduler", cosine([3]), "scheduler.periods: their sum (3) must be at least total_iter (4)"),
        ("train.scheduler", cosine([1, 2], [1, 1]), "scheduler.periods: their sum (3) must be at least total_iter (4)"),
        ("train.time_limit_s", 60, "train.time_limit_s: unknown key; did you mean 'time_limit'?"),
        ("train.time_limit", "soon", "train.time_limit: expected a time like 540s, 30m or 8h, got str 'soon'"),
        ("train.time_limit", "s", "train.time_limit: expected a time like 540s, 30m or 8h, got str 's'"),
        ("train.time_limit", "0h", "train.time_limit: must be greater than 0, got 0"),
        ("train.scheduler", None, "train.scheduler: missing, and no train.time_limit instead of it"),
        ("losses", [{"type": "L1loss"}], "losses.0.type: unknown loss 'L1loss'; did you mean 'L1'?"),
        (
            "losses",
            [{"type": "LPIPS", "nett": "alex"}],
            "losses.0.nett: LPIPS has no such argument; did you mean 'net",
        ),
        ("losses", [{"type": "L1"}, {"type": "L2", "weight": -1}], "losses.1.weight: must be at least 0, got -1"),
        ("losses", [{"type": "Adversarial"}], "network_d: needs a loss of type Adversarial with a weight, and that"),
        ("network_d", {"type": "PatchDiscriminator"}, "network_d: needs a loss of type Adversarial with a weight, and"),
        ("codec.patch", 6, "codec.patch: must be a multiple of scale (4), got 6"),
        ("codec.std", 0, "codec.std: must be greater than 0"),
        ("datasets.train.gt_size", 30, "datasets.train.gt_size: must be a multiple of codec.patch (4), got 30"),
        ("diffusion.share_t1", 1.5, "diffusion.share_t1: must be at least 0 and at most 1, got 1.5"),
        ("diffusion.process", "ddpm", "diffusion.process: unknown value str 'ddpm'"),
        ("distill.adaptation_strength", 1, "must be at least 0 and less than 1, got 1"),
        ("distill.num_steps", 4, "distill.num_steps: expected a list, got int 4"),
        ("distill.num_steps", [1, 0], "distill.num_steps.1: must be at least 1 and at most 1000, got 0"),
        ("distill.num_steps", [], "num_steps needs at least one"),
        ("distill.step_weights", [1.0], "step_weights has 1 entries, num_steps 2"),
        ("distill.weight_dmd", 0, "losses: none has a weight, and distill.weight_dmd is 0; one must be greater"),
        ("distill.t_min", 0.99, "t_min (0.99) must be less than t_max (0.98)"),
        ("distill.renoise", "yes please", "distill.renoise: expected true or false"),
        ("num_gpu", "all", "num_gpu: expected a whole number or 'auto', got str 'all'"),
        ("num_gpu", -1, "num_gpu: must be at least 0, got -1"),
        ("amp", "fp16", "amp: unknown value str 'fp16'"),
        ("path", {"pretrain_network_g": "${NO_SUCH_VARIABLE_X}/a.pth"}, "path.pretrain_network_g: ${NO_SUCH"),
        ("rank", 0, "rank: unknown key"),
    ],
)
def test_slips_are_named(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    file = write(tmp_path, {key: value})
    message = problem(file)
    assert message.startswith(f"{file}: ") and expected in message


@pytest.mark.parametrize("model", ["AMDModel", "DMDModel"])
@pytest.mark.parametrize(
    "key", ["network_teacher", "network_fake", "train.optim_fake", "path.pretrain_network_teacher", "rewards"]
)
def test_what_distillation_needs(tmp_path: Path, model: str, key: str) -> None:
    file = write(tmp_path, {"model_type": model, key: None})
    if (model, key) == ("DMDModel", "rewards"):
        load_options(file)
    else:
        assert problem(file) == f"{file}: {key}: missing; training a {model} needs it"
    load_options(write(tmp_path, {"model_type": "TeacherModel", key: None}))
    if not key.startswith("train"):
        load_options(write(tmp_path, {"model_type": model, key: None, "train": None}))  # for test.py


def test_which_models_have_losses(tmp_path: Path) -> None:
    losses = [{"type": "L1", "weight": 0.5}]
    off = {"type": "L1", "weight": 0}
    load_options(write(tmp_path, {"model_type": "SupervisedModel", "losses": losses, "network_teacher": None}))
    for found, expected in (([], "losses: missing; training a SupervisedModel"), ([off], "losses: none has a weight")):
        assert expected in problem(write(tmp_path, {"model_type": "SupervisedModel", "losses": found}))
    load_options(write(tmp_path, {"model_type": "TeacherModel", "losses": losses}))
    adversarial = [{"type": "Adversarial", "weight": 0.5}]
    expected = "losses: a TeacherModel has no discriminator"
    assert expected in problem(write(tmp_path, {"model_type": "TeacherModel", "losses": adversarial}))


def test_the_permuted_control_needs_another_sample(tmp_path: Path) -> None:
    alone = {"distill.group_size": 1, "distill.permute_advantage": True}
    expected = "distill.permute_advantage: with one sample in a batch there is no other one"
    assert expected in problem(write(tmp_path, {**alone, "datasets.train.batch_size_per_gpu": 1}))
    load_options(write(tmp_path, {**alone, "datasets.train.batch_size_per_gpu": 2}))
    load_options(write(tmp_path, {**alone, "datasets.train.batch_size_per_gpu": 1, "distill.group_size": 3}))


def test_an_empty_teacher_or_reward_list_is_a_missing_one(tmp_path: Path) -> None:
    assert "rewards: missing" in problem(write(tmp_path, {"rewards": []}))
    empty = ("path:pretrain_network_teacher=null",)
    assert "path.pretrain_network_teacher: missing" in problem(write(tmp_path), empty)


def test_schedules_that_fit(tmp_path: Path) -> None:
    for scheduler in (cosine([4]), cosine([2, 3], [1, 0.5])):
        load_options(write(tmp_path, {"train.scheduler": scheduler}))


@pytest.mark.parametrize("name", ["AdamW", "SGD", "RMSprop", "NAdam", "Adafactor"])
def test_optimizers_by_name(tmp_path: Path, name: str) -> None:
    load_options(write(tmp_path, {"train.optim_g": {"type": name, "lr": "1e-3", "weight_decay": 0.01}}))


def test_a_dataset_in_one_dictionary_takes_any_key(tmp_path: Path) -> None:
    """As BasicSR's do: what they read, nobody declares."""
    block = {"name": "v", "type": "SingleImageDataset", "dataroot_lq": "a", "io_backend": {"type": "disk"}}
    opt = load_options(write(tmp_path, {"datasets.val": block}))
    assert opt["datasets"]["val"].items() > block.items()


def test_numbers_that_yaml_reads_as_text(tmp_path: Path) -> None:
    file = tmp_path / "numbers.yml"
    file.write_text(
        yaml.safe_dump(OPTIONS).replace("lr: 0.001", "lr: 1e-4").replace("total_iter: 4", "total_iter: 1e5")
    )
    train = load_options(file)["train"]
    assert train["optim_g"]["lr"] == 1e-4 and train["total_iter"] == 100_000
    assert type(train["total_iter"]) is int
    assert type(load_options(write(tmp_path, {"codec.std": "7e-2"}))["codec"]["std"]) is float


def test_force_yml(tmp_path: Path) -> None:
    file = write(tmp_path)
    force = ("train:optim_g:lr=1e-5", "train:warmup_iter=-1", "rewards:0:weight=3", "distill:num_steps=[1, 4]")
    opt = load_options(file, [*force, "logger:print_freq=7", "name=other"])
    assert opt["train"]["optim_g"]["lr"] == 1e-5 and opt["train"]["warmup_iter"] == -1
    assert opt["rewards"][0]["weight"] == 3.0 and opt["distill"]["num_steps"] == [1, 4]
    assert opt["logger"]["print_freq"] == 7 and opt["name"] == "other"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("train:optim_g:lr=__import__('os')", "expected a number"),
        ("train:optim:lr=1", "train.optim: unknown key"),
        ("distill:group_size=two", "distill.group_size: expected a whole number"),
    ],
)
def test_force_yml_is_checked_like_the_file(tmp_path: Path, entry: str, expected: str) -> None:
    message = problem(write(tmp_path), (entry,))
    assert expected in message and "--force_yml" in message


@pytest.mark.parametrize(
    "entry", ["name", "=1", "name:x=1", "rewards:1:weight=2", "rewards:x=2", "a=[1", "a=!!python/x 1"]
)
def test_malformed_force_yml(tmp_path: Path, entry: str) -> None:
    with pytest.raises(AMDRestoreError, match="--force_yml"):
        load_options(write(tmp_path), [entry])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [1, 2", "line 1: not valid YAML"),
        ("name: a\nscale: 4\nname: b\n", "line 3: not valid YAML: 'name' is given twice"),
        ("- a\n- b\n", "expected keys and values, got list"),
        ("", "expected keys and values, got NoneType"),
        ("name: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("a: &x [*x]", "not valid YAML"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "broken.yml"
    file.write_text(text)
    assert expected in problem(file)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    assert "no such option file" in problem(tmp_path / "nowhere.yml")
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\x00\x81")
    assert "cannot be read as a text file" in problem(tmp_path / "binary.yml")


def test_an_alias_is_a_value_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "alias.yml"
    file.write_text(
        yaml.safe_dump({k: v for k, v in OPTIONS.items() if k not in ("network_g", "network_fake")})
        + "network_g: &net {type: FlatDenoiser, num_feat: 8}\nnetwork_fake: *net\n"
    )
    opt = load_options(file, ["network_g:num_feat=16"])
    assert opt["network_g"]["num_feat"] == 16 and opt["network_fake"]["num_feat"] == 8


def test_asset_folder_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, {"datasets.train.crops_file": "${AMD_RESTORE_ASSETS}/Set5"})
    monkeypatch.setenv("AMD_RESTORE_ASSETS", "/somewhere")
    assert load_options(file)["datasets"]["train"]["crops_file"] == "/somewhere/Set5"
    monkeypatch.delenv("AMD_RESTORE_ASSETS")
    assert load_options(file)["datasets"]["train"]["crops_file"] == str(Path.home() / ".cache/amd_restore/Set5")


def test_what_basicsr_reads_without_default_is_filled_in(tmp_path: Path) -> None:
    opt = load_options(write(tmp_path))
    assert opt["logger"]["print_freq"] == 100 and opt["val"]["save_img"] is False
    assert "val" not in load_options(write(tmp_path, {"val": None}))


def test_what_the_program_adds_is_left_aside(tmp_path: Path) -> None:
    file = write(tmp_path)
    opt = load_options(file)
    opt.update(is_train=True, rank=0, world_size=1, dist=False, auto_resume=False, root_path=".")
    opt.setdefault("path", {}).update(models="m", experiments_root="e", log="l")
    assert RunOptions.from_dict(opt, file).name == "toy"


def test_blocks_a_command_needs(tmp_path: Path) -> None:
    file = write(tmp_path, {"train": None})
    load_options(file)
    with pytest.raises(AMDRestoreError, match="train: missing; this command needs it"):
        load_options(file, required=("train",))


def test_more_gpus_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    file = write(tmp_path, {"num_gpu": 4})
    with pytest.raises(AMDRestoreError) as caught:
        check_devices(load_options(file), file)
    assert str(caught.value) == f"num_gpu: 4 in {file} but this machine has 0 GPUs; set num_gpu: 0 or auto"
    check_devices({"num_gpu": "auto"}, file)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    check_devices(load_options(file), file)


def test_read_yaml_keeps_text_that_looks_almost_like_a_number(tmp_path: Path) -> None:
    file = tmp_path / "plain.yml"
    file.write_text("a: 1e4x\nb: 1.5e3\nc: e5\nd: -2E-3\n")
    assert read_yaml(file) == {"a": "1e4x", "b": 1500.0, "c": "e5", "d": -0.002}


def test_every_option_is_described() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert all(row.split("|")[3].strip() for row in rows)


@pytest.mark.parametrize(
    ("written", "seconds"), [("540s", 540), ("1.5h", 5400), ("30m", 1800), ("2d", 172800), ("90", 90), (7, 7)]
)
def test_a_time_limit_stands_for_length_and_schedule(tmp_path: Path, written: Any, seconds: float) -> None:
    changes = {"train.time_limit": written, "train.total_iter": None, "train.scheduler": None}
    train = load_options(write(tmp_path, changes))["train"]
    assert train["time_limit"] == seconds and type(train["time_limit"]) is float
    with_all = load_options(write(tmp_path, {"train.time_limit": written, "train.scheduler": cosine([3])}))
    assert with_all["train"]["total_iter"] == 4
