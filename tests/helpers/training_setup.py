"""Miniature training runs for the tests: tiny networks, tiny crops, the real option files and the real pipeline."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import random
import subprocess
import traceback
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from places import REPOSITORY
from warm_python import warm_python

from amd_restore.options import OptionFile
from amd_restore.registry import register_all
from amd_restore.training.pipeline import prepare_options, run_pipeline

TINY_NETWORK = {"type": "FlatDenoiser", "num_feat": 8, "num_block": 1, "time_feat": 8}
TINY_NETWORKS: dict[str, dict[str, Any]] = {
    "FlatDenoiser": TINY_NETWORK,
    "CondUNet": {"type": "CondUNet", "channels": [32, 32], "layers_per_block": 1},
}
NIQE_SIDE = 96  # pixels that NIQE needs
SMALL_FEAT = 6  # width of a student that is smaller than its teacher


def make_data(folder: Path) -> None:
    """Eight crops of 96 pixels and two validation images of 112 x 208, smooth colours plus texture."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    crops = np.stack([cv2.resize(image, (96, 96), interpolation=cv2.INTER_CUBIC) for image in coarse])
    np.save(folder / "crops.npy", crops)
    (folder / "val").mkdir()
    for index in range(2):
        small = generator.integers(0, 256, (28, 52, 3), dtype=np.uint8)
        image = cv2.resize(small, (208, 112), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "val" / f"{index}.png"), image)


def is_latent(network: dict[str, Any]) -> bool:
    """Whether a network is one of diffusers, with an autoencoder."""
    return str(network["type"]).startswith("Latent")


def shrink_latent(network: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same network on a tiny model with random weights, which are the same in every folder."""
    import latent_models  # takes seconds

    model = folder / str(network["type"])
    if not model.is_dir():
        is_transformer = network["type"] == "LatentTransformer"
        save = latent_models.save_stable_diffusion_3 if is_transformer else latent_models.save_stable_diffusion
        save(model)
    return {**network, "pretrained_model_name_or_path": str(model)}


def shrink(
    options: dict[str, Any],
    folder: Path,
    teacher: str | None,
    iterations: int,
    student: str | None = None,
    gt_size: int = 48,
) -> dict[str, Any]:
    """An option file of the project in miniature: everything stays but sizes, paths, lengths and workers.

    ``student`` starts network_g instead of ``teacher``. One that is smaller than its teacher stays so. NIQE stays
    among the rewards where crops of ``gt_size`` pixels are large enough for it.
    """
    is_smaller = options["network_g"] != options.get("network_teacher", options["network_g"])
    for key in [key for key in options if key.startswith("network_")]:
        kind = str(options[key]["type"])
        if kind.endswith("Discriminator"):
            options[key]["num_feat"] = 8
            continue
        options[key] = dict(TINY_NETWORKS[kind]) if kind in TINY_NETWORKS else shrink_latent(options[key], folder)
    if is_latent(options["network_g"]):
        options["codec"]["pretrained_model_name_or_path"] = options["network_g"]["pretrained_model_name_or_path"]
        if options.get("distill", {}).get("decode_crop"):
            options["distill"]["decode_crop"] = 8  # of 12 cells
        options["val"]["metrics"].pop("niqe", None)  # needs more pixels than that transformer has positions
    for loss in options.get("losses") or []:
        if loss.get("net") == "vgg":
            loss["net"] = "squeeze"  # whose weights are at hand
    if is_smaller and options["network_g"]["type"] == "FlatDenoiser":
        options["network_g"]["num_feat"] = SMALL_FEAT
    options["num_threads"] = 1
    for phase, dataset in options["datasets"].items():
        if phase == "train":
            dataset.update(crops_file=str(folder / "crops.npy"), gt_size=gt_size)
            dataset.update(batch_size_per_gpu=2, num_worker_per_gpu=0)
        else:
            side = 112 if is_latent(options["network_g"]) else 0  # the tiny transformer has positions for 32 cells
            dataset.update(dataroot_gt=str(folder / "val"), gt_size=side, limit=1)
    for key in [key for key in options.setdefault("path", {}) if key.startswith("pretrain_network")]:
        options["path"][key] = student or teacher if key == "pretrain_network_g" else teacher
    replaced = {"PyIQAReward"} if gt_size >= NIQE_SIDE else {"PyIQAReward", "NIQEReward"}  # an optional package
    if any(reward["type"] in replaced for reward in options.get("rewards") or []):
        options["rewards"] = [{"type": "LPIPSReward", "net": "squeeze"}, {"type": "PSNRReward"}]
    options["train"]["total_iter"] = iterations
    options["val"].update(val_freq=iterations, panels=1)
    options["logger"].update(print_freq=1, save_checkpoint_freq=2, use_tb_logger=False)
    return options


def load_miniature(
    name: str,
    folder: Path,
    teacher: str | None = None,
    iterations: int = 4,
    student: str | None = None,
    gt_size: int = 48,
) -> dict[str, Any]:
    """``options/train/NAME.yml`` shrunk."""
    options = OptionFile.read(REPOSITORY / "options" / "train" / f"{name}.yml").content
    return shrink(options, folder, teacher, iterations, student, gt_size)


def build_model(options: dict[str, Any], folder: Path) -> Any:
    """The model of an option file, built as the training command builds it."""
    register_all(training=True)
    file = write_options(options, folder)
    args = argparse.Namespace(opt=str(file), force_yml=[], launcher="none", auto_resume=False, debug=False)
    with torch.random.fork_rng(devices=[]):
        return import_module("basicsr.models").build_model(prepare_options(args, folder, is_train=True))


class StartWeights:
    """Files of weights to start from, by network, made at first need.

    All layers are random, with outputs of about unit variance. Last layers of zeros, as networks have them at first,
    would let rewards compare equal images and most gradients vanish. ``params`` differ from ``params_ema``, hence the
    fake score of a student from its teacher.

    Args:
        folder: where they and :func:`make_data` go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, dict[str, str]()
        if not (folder / "crops.npy").exists():
            make_data(folder)

    def of(self, network: dict[str, Any]) -> str:
        """The file for block ``network`` of a miniature, of a network that enlarges four times."""
        named = {name: value for name, value in network.items() if name != "pretrained_model_name_or_path"}
        key = json.dumps(named, sort_keys=True)
        if key not in self.made:
            recipe = "teacher_sd_tiny_x4" if is_latent(network) else "regression_x4_classical"
            options = load_miniature(recipe, self.folder)
            options.update(name=f"start{len(self.made)}", network_g=dict(network), amp="none")
            model = build_model(options, self.folder)
            generator = torch.Generator().manual_seed(5)
            with torch.no_grad():
                trained = [p for p in model.net_g.parameters() if p.requires_grad]
                for parameter in trained:
                    if parameter.ndim > 1:
                        parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
                model.model_ema(0.0)
                for parameter in trained:
                    parameter.mul_(1.0 + 0.3 * torch.randn(parameter.shape, generator=generator))
            nets = [model.net_g, model.net_g_ema]
            model.save_network(nets, "net_g", -1, ["params", "params_ema"])
            self.made[key] = str(model.folders.models / "net_g_latest.pth")
        return self.made[key]


def load_started(name: str, folder: Path, starts: StartWeights, **changes: Any) -> dict[str, Any]:
    """:func:`load_miniature` with the weights that its networks start from."""
    options = load_miniature(name, folder, **changes)
    if not any(key.startswith("pretrain_network") for key in options["path"]):
        return options  # starts from a published checkpoint
    student = starts.of(options["network_g"])
    teacher = starts.of(options.get("network_teacher", options["network_g"]))
    return load_miniature(name, folder, teacher=teacher, student=student, **changes)


def run_training(
    options: dict[str, Any], folder: Path, *arguments: str, script: str = "train.py", started: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Write the options to ``folder`` and run the training command there, within this process.

    What the command says is in the result, as is what becomes of it: an unexpected error is a traceback and status 1.
    Its time limit counts from ``started``.
    """
    register_all(training=True)
    written, said = io.StringIO(), io.StringIO()
    with _as_in_a_process(folder), contextlib.redirect_stdout(written), contextlib.redirect_stderr(said):
        command = ["-opt", str(write_options(options, folder)), *arguments]
        try:
            status = run_pipeline(script == "train.py", command, started)
        except SystemExit as error:  # of the command line
            status = error.code if isinstance(error.code, int) else 1
        except Exception:
            traceback.print_exc()
            status = 1
    return subprocess.CompletedProcess(command, status, written.getvalue(), said.getvalue())


def run_command(
    options: dict[str, Any], folder: Path, *arguments: str, script: str = "train.py", python: str | None = None
) -> subprocess.CompletedProcess[str]:
    """:func:`run_training` by the real command, in processes of its own; ``sys.executable`` takes seconds to start."""
    file = write_options(options, folder)
    command = [python or warm_python(), str(REPOSITORY / "amd_restore" / script), "-opt", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def write_options(options: dict[str, Any], folder: Path) -> Path:
    """An option file of these in ``folder``."""
    file = folder / f"{options['name']}.yml"
    file.write_text(yaml.safe_dump(options), encoding="utf-8")
    return file


@contextlib.contextmanager
def _as_in_a_process(folder: Path) -> Iterator[None]:
    """In ``folder``; what a run leaves behind in its process is undone: loggers, random states, threads, warnings."""
    threads, states = torch.get_num_threads(), (random.getstate(), np.random.get_state())
    forget_loggers()
    try:
        with contextlib.chdir(folder), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            yield
    finally:
        forget_loggers()
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])


def forget_loggers() -> None:
    """BasicSR sets its logger up once in a process; the next run shall do so anew."""
    initialized: dict[str, bool] = import_module("basicsr.utils.logger").initialized_logger
    for name in initialized:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(logging.NOTSET)
    initialized.clear()


def rollout_of(model: Any, x0: torch.Tensor | None = None, t: torch.Tensor | None = None, **fields: Any) -> Any:
    """Samples ``x0`` of the batch at hand, as if the student had made them at times ``t``; zeros in its first step."""
    from amd_restore.models.rollout import Rollout

    x0 = torch.zeros(model.codec.latent_shape(model.lq)) if x0 is None else x0
    count = len(x0)
    return Rollout(
        lq=model.lq,
        gt=model.gt,
        cond=model.codec.condition(model.lq),
        noise=torch.zeros_like(x0),
        steps=torch.ones(count).long(),
        stops=torch.zeros(count).long() if t is None else (t < 1.0).long(),
        x_t=x0,
        t=torch.ones(count) if t is None else t,
        x0=x0,
        image=model.codec.decode(x0, model.lq),
        **fields,
    )
