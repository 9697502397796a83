"""BasicSR's training and test pipelines with four of their parts replaced.

Replaced: reading options (checked, no ``eval``), loading the resume state (works on a CPU, never unpickles code),
the data loaders (data order as a function of progress, so that a resume is exact), and where experiments are
written (the working directory).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from amd_restore.errors import AMDRestoreError
from amd_restore.options import check_devices, load_options
from amd_restore.registry import import_basicsr, register_all


def build_parser(is_train: bool) -> argparse.ArgumentParser:
    """BasicSR's command line."""
    script = "train.py" if is_train else "test.py"
    parser = argparse.ArgumentParser(prog=f"python amd_restore/{script}")
    parser.add_argument("-opt", required=True, help="option file (.yml)")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none")
    parser.add_argument("--auto_resume", action="store_true", help="go on from the newest training state")
    parser.add_argument("--debug", action="store_true", help="log, save and validate often; tracebacks on errors")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="a:b=value", help="override options")
    return parser


def prepare_options(args: argparse.Namespace, root: Path, is_train: bool) -> dict[str, Any]:
    """Checked options with what BasicSR's ``parse_options`` adds: ranks, seeds, phases and paths.

    Raises:
        AMDRestoreError: for any unknown or ill-typed option, missing file, or missing GPU.
    """
    from basicsr.utils import set_random_seed
    from basicsr.utils.dist_util import get_dist_info, init_dist

    opt = load_options(args.opt, args.force_yml, required=("train", "datasets") if is_train else ("datasets", "val"))
    check_devices(opt, args.opt)
    opt["opt_path"] = str(args.opt)
    opt["dist"] = args.launcher != "none"
    if opt["dist"]:
        opt.setdefault("find_unused_parameters", True)  # the null condition is not in every graph
        _check_launcher(args.launcher)
        params = dict(opt.get("dist_params") or {})
        if args.launcher == "pytorch":
            params.pop("port", None)  # BasicSR's usual block has it; only its slurm launcher takes it
        init_dist(args.launcher, **params)
    opt["rank"], opt["world_size"] = get_dist_info()
    opt["manual_seed"] = int(opt.get("manual_seed") or 0)
    set_random_seed(opt["manual_seed"] + opt["rank"])
    opt["auto_resume"], opt["is_train"] = args.auto_resume, is_train
    if args.debug and not opt["name"].startswith("debug"):
        opt["name"] = "debug_" + opt["name"]
    if opt.get("num_gpu", "auto") == "auto":
        opt["num_gpu"] = torch.cuda.device_count()
    for phase, dataset in (opt.get("datasets") or {}).items():
        dataset["phase"], dataset["scale"] = phase.split("_")[0], opt["scale"]
        if dataset["phase"] != "train" and opt.get("degradation"):
            dataset.setdefault("degradation", dict(opt["degradation"]))
    paths = opt.setdefault("path", {})
    for key, value in paths.items():
        if isinstance(value, str):
            paths[key] = os.path.expanduser(os.path.expandvars(value))
    run_root = root / ("experiments" if is_train else "results") / opt["name"]
    paths["experiments_root" if is_train else "results_root"] = str(run_root)
    paths["log"], paths["visualization"] = str(run_root), str(run_root / "visualization")
    if is_train:
        paths["models"], paths["training_states"] = str(run_root / "models"), str(run_root / "training_states")
        paths.setdefault("resume_state", None)
        opt.setdefault("logger", {}).setdefault("use_tb_logger", False)
        if opt["name"].startswith("debug_"):  # not "debug" anywhere in it, as BasicSR: runs may be about debugging
            opt["logger"]["print_freq"], opt["logger"]["save_checkpoint_freq"] = 1, 8
            if opt.get("val"):
                opt["val"]["val_freq"] = 8
    return opt


def _check_launcher(launcher: str) -> None:
    if not torch.cuda.is_available():
        raise AMDRestoreError(f"--launcher {launcher} needs a GPU for each process, and this machine has none")
    if launcher == "pytorch" and "RANK" not in os.environ:
        raise AMDRestoreError("--launcher pytorch: start it with torchrun --nproc_per_node=N ...")


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """The newest training state of the experiment (``--auto_resume``) or the one in ``path.resume_state``.

    Raises:
        AMDRestoreError: when the state cannot be read.
    """
    from basicsr.utils import check_resume

    path = opt["path"].get("resume_state")
    folder = Path(opt["path"]["training_states"])
    if opt["auto_resume"] and folder.is_dir():
        states = sorted((p for p in folder.glob("*.state") if p.stem.isdigit()), key=lambda p: int(p.stem))
        path = str(states[-1]) if states else path
    if not path:
        return None
    opt["path"]["resume_state"] = path
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise AMDRestoreError(
            f"{path}: cannot resume from this file ({type(error).__name__}); delete it to use an earlier one"
        ) from error
    opt["resume_iter"] = int(state["iter"])
    check_resume(opt, state["iter"])
    return state


def create_dataloaders(opt: dict[str, Any], logger: logging.Logger) -> tuple[Any, ...]:
    """Loaders whose order is a function of progress; same result shape as BasicSR's function.

    The whole run is one epoch of positions, starting where the resume state stands.

    Raises:
        AMDRestoreError: when no training data is given.
    """
    from basicsr.data import build_dataset

    from amd_restore.data.resumable import PositionDataset, PositionSampler

    train_loader, sampler, val_loaders = None, None, []
    total_iters = int(opt["train"]["total_iter"])
    for phase, options in opt["datasets"].items():
        dataset = build_dataset(options)
        if options["phase"] != "train":
            val_loaders.append(torch.utils.data.DataLoader(dataset, batch_size=1))
            continue
        batch = int(options["batch_size_per_gpu"]) * (1 if opt["dist"] else max(1, opt["num_gpu"]))
        sampler = PositionSampler(
            opt.get("resume_iter", 0) * batch, total_iters * batch, opt["rank"], opt["world_size"]
        )
        train_loader = torch.utils.data.DataLoader(
            PositionDataset(dataset, opt["manual_seed"]),
            batch_size=batch,
            sampler=sampler,
            num_workers=int(options.get("num_worker_per_gpu") or 0),
            pin_memory=bool(options.get("pin_memory")),
            drop_last=True,
        )
        passes = total_iters * batch * opt["world_size"] / len(dataset)
        logger.info(
            f"{len(dataset)} training samples, {total_iters} iterations of {batch}: {passes:.1f} passes ({phase})"
        )
    if train_loader is None:
        raise AMDRestoreError(f"{opt['opt_path']}: datasets has no 'train' entry")
    return train_loader, sampler, val_loaders, 0, total_iters


def run_pipeline(is_train: bool, argv: Sequence[str] | None = None) -> int:
    """Command line of ``train.py`` and ``test.py``: 0 when all went well, 2 after a one-line error."""
    args = build_parser(is_train).parse_args(argv)
    try:
        import_basicsr()
        register_all(training=True)
        _patched_pipeline(args, is_train)
    except AMDRestoreError as error:
        if args.debug:
            raise
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _patched_pipeline(args: argparse.Namespace, is_train: bool) -> None:
    import basicsr.test
    import basicsr.train

    # BasicSR steps every schedule each iteration, also that of a student that is not updated in the first one.
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")

    def parse_options(root_path: str, is_train: bool = True) -> tuple[dict[str, Any], argparse.Namespace]:
        return prepare_options(args, Path(root_path), is_train), args

    module = basicsr.train if is_train else basicsr.test
    module.parse_options = parse_options
    if is_train:
        module.load_resume_state = load_resume_state
        module.create_train_val_dataloader = create_dataloaders
        module.train_pipeline(str(Path.cwd()))
    else:
        module.test_pipeline(str(Path.cwd()))
