"""BasicSR's training and test pipelines with four of their parts replaced.

Replaced: options (checked, no ``eval``), the resume state (works on a CPU, never unpickles code), data loaders (data
order as a function of progress, so that a resume is exact), and the folder of experiments (the working directory). The
launcher also starts processes on CPUs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from amd_restore.atomic import held
from amd_restore.errors import AMDRestoreError, run_command
from amd_restore.options import OptionFile, check_devices, load_options
from amd_restore.registry import import_basicsr, register_all
from amd_restore.training.resume import changed_options, load_resume_state

if TYPE_CHECKING:
    from amd_restore.models.ending import StopRequest
    from amd_restore.training.lost_process import Progress

AFTER_BARRIER = 0.2  # seconds in which the other processes leave the barrier, too
SAME_ERROR = 3.0  # seconds that other ranks wait before reporting the same error
LOCKED = 10.0  # seconds for which the loaders' processes of a killed run may hold its lock
NO_END = 10**9  # iterations of a run with only a time limit


def build_parser(is_train: bool) -> argparse.ArgumentParser:
    """Build the parser of BasicSR's command line with our additions."""
    script = "train.py" if is_train else "test.py"
    parser = argparse.ArgumentParser(prog=f"python amd_restore/{script}")
    parser.add_argument("-opt", required=True, help="option file (.yml)")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none")
    if is_train:
        parser.add_argument(
            "--processes", default="1", metavar="N", help="number of processes of a CPU run; auto: num_threads"
        )
        # Set by the process that starts several: the start of time_limit, and the share of work.
        parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
        parser.add_argument("--shares", nargs="+", default=[], help=argparse.SUPPRESS)
        parser.add_argument(
            "--check",
            action="store_true",
            help="check options, data, one iteration, saving and validation; keep nothing",
        )
    parser.add_argument("--auto_resume", action="store_true", help="resume from the newest training state")
    parser.add_argument("--debug", action="store_true", help="log, save and validate often; show tracebacks")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="a:b=value", help="override options")
    return parser


def prepare_options(args: argparse.Namespace, root: Path, is_train: bool) -> dict[str, Any]:
    """Return checked options with the additions of BasicSR's ``parse_options``: ranks, seeds, phases and paths.

    Raises:
        AMDRestoreError: an unknown or ill-typed option, a missing file or GPU.
    """
    from basicsr.utils import set_random_seed
    from basicsr.utils.dist_util import get_dist_info

    needed = ("train", "datasets") if is_train else ("datasets", "val")
    opt = load_options(args.opt, [*args.force_yml, *getattr(args, "shares", ())], needed)
    check_devices(opt, args.opt)
    if is_train:
        check_loggers(opt)
    opt["opt_path"] = str(args.opt)
    opt["dist"] = args.launcher != "none"
    if opt["dist"]:
        start_processes(opt, args.launcher)
    opt["rank"], opt["world_size"] = get_dist_info()
    opt["manual_seed"] = int(opt.get("manual_seed") or 0)
    set_random_seed(opt["manual_seed"])  # The same seed in all processes gives equal initial weights.
    opt["auto_resume"], opt["is_train"] = args.auto_resume, is_train
    if args.debug and not opt["name"].startswith("debug"):
        opt["name"] = "debug_" + opt["name"]
    gpus = torch.cuda.device_count()
    if opt.get("num_gpu", "auto") == "auto":
        opt["num_gpu"] = gpus if opt["dist"] else min(1, gpus)
    if opt["num_gpu"] > 1 and not opt["dist"]:
        raise AMDRestoreError(
            f"{args.opt}: num_gpu: {opt['num_gpu']} needs a process for each GPU: "
            f"torchrun --nproc_per_node={opt['num_gpu']} amd_restore/train.py ... --launcher pytorch"
        )
    if not is_train:
        opt["datasets"].pop("train", None)
        if not opt["datasets"]:
            raise AMDRestoreError(f"{args.opt}: datasets: only 'train'; a test needs one named val or test")
    paths = opt.setdefault("path", {})
    for key, value in paths.items():
        if isinstance(value, str):
            paths[key] = os.path.expanduser(os.path.expandvars(value))
    run_root = root / ("experiments" if is_train else "results") / opt["name"]
    paths["experiments_root" if is_train else "results_root"] = str(run_root)
    paths["log"], paths["visualization"] = str(run_root), str(run_root / "visualization")
    if is_train:
        opt["train"].setdefault("total_iter", NO_END)
        paths["models"], paths["training_states"] = str(run_root / "models"), str(run_root / "training_states")
        paths.setdefault("resume_state", None)
        opt.setdefault("logger", {}).setdefault("use_tb_logger", False)
        if opt["name"].startswith("debug_"):  # BasicSR accepts "debug" anywhere in the name.
            opt["logger"]["print_freq"], opt["logger"]["save_checkpoint_freq"] = 1, 8
            if opt.get("val"):
                opt["val"]["val_freq"] = 8
    return opt


def check_loggers(opt: dict[str, Any]) -> None:
    """Check the packages of the loggers before training.

    Raises:
        AMDRestoreError: a package is missing; the message names the option.
    """
    wandb = (opt["logger"].get("wandb") or {}).get("project")
    wanted = {"logger.use_tb_logger": ("tensorboard", opt["logger"]["use_tb_logger"])}
    wanted["logger.wandb.project"] = ("wandb", wandb)
    for key, (package, is_on) in wanted.items():
        if is_on and importlib.util.find_spec(package) is None:
            raise AMDRestoreError(f"{key}: needs the package {package}; pip install {package}, or leave it out")


def keep_options(args: argparse.Namespace, folder: str) -> None:
    """Write the options of a run, merged with bases and overrides, into its folder."""
    file = OptionFile.read(args.opt, args.force_yml)
    source = " <- ".join(name for name, _ in reversed(file.layers))
    file.write(Path(folder) / file.path.name, f"{time.asctime()}: {' '.join(sys.argv)}\n{source}")


def start_processes(opt: dict[str, Any], launcher: str) -> None:
    """Join the process group: BasicSR's ``init_dist``, which needs GPUs, and the same for CPUs.

    Raises:
        AMDRestoreError: not started by the launcher, more processes than GPUs, or no connection.
    """
    from basicsr.utils.dist_util import init_dist

    if torch.distributed.is_initialized():
        return
    wanted = opt.get("num_gpu", "auto")
    gpus = torch.cuda.device_count() if wanted == "auto" else int(wanted)
    if launcher == "slurm" and not gpus:
        raise AMDRestoreError("--launcher slurm needs a GPU for each process; use torchrun and --launcher pytorch")
    started = "RANK" if launcher == "pytorch" else "SLURM_PROCID"
    if started not in os.environ:
        how = "torchrun --nproc_per_node=N" if launcher == "pytorch" else "srun"
        raise AMDRestoreError(f"--launcher {launcher}: start it with {how} ...")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if gpus and local > gpus:
        raise AMDRestoreError(f"{local} processes for {gpus} GPUs: start as many as there are, or set num_gpu: 0")
    params = dict(opt.get("dist_params") or {})
    backend = params.get("backend") or ("nccl" if gpus else "gloo")
    if backend == "nccl" and not gpus:
        raise AMDRestoreError("dist_params.backend: nccl needs GPUs; set it to gloo or null")
    timeout = timedelta(seconds=int(params.get("timeout", 1800)))
    try:
        if launcher == "slurm":
            init_dist(launcher, backend=backend, **{key: params[key] for key in ("port",) if key in params})
        elif gpus:
            init_dist(launcher, backend=backend, timeout=timeout)
        else:
            torch.distributed.init_process_group(backend=backend, timeout=timeout)
    except torch.distributed.DistError as error:
        raise AMDRestoreError(f"the processes do not find one another: {' '.join(str(error).split())[:200]}") from error


def settle_devices(opt: dict[str, Any], logger: logging.Logger) -> None:
    """Set the process's global state, and log idle GPUs.

    BasicSR lets cuDNN benchmark algorithms for each new shape. This is switched off, because rollouts and validation
    have many shapes.
    """
    torch.backends.cudnn.benchmark = False
    idle = torch.cuda.device_count() - 1
    if opt["num_gpu"] == 1 and not opt["dist"] and idle > 0:
        command = f"torchrun --nproc_per_node={idle + 1} ... --launcher pytorch"
        logger.info(f"One GPU is used, {idle} more are not; {command} uses all")


def run_pipeline(is_train: bool, argv: Sequence[str] | None = None, started: float | None = None) -> int:
    """Run ``train.py`` or ``test.py``; return 0 on success, 2 after a one-line error.

    Also returns 128 plus the number of a signal that stopped training, and 3 after the loss of another process.

    Args:
        is_train: train instead of testing.
        argv: arguments; None for those of the process.
        started: reading of ``time.monotonic()`` from which ``train.time_limit`` counts; None for now.
    """
    args = build_parser(is_train).parse_args(argv)
    given = getattr(args, "started", None)
    started = given if given is not None else started
    from_now = time.monotonic() if started is None else started

    def command() -> int:
        import_basicsr()
        register_all(training=True)
        from amd_restore.training.local_processes import start_several

        if args.launcher != "none":
            _one_of_several(args, is_train, from_now)
        code = start_several(args, from_now) if is_train and not args.check else None
        return _alone(args, is_train, from_now) if code is None else code

    # A training run saves its state after SIGTERM, see StopRequest.
    return run_command(command, args.debug, stops_on_sigterm=False)


def _alone(args: argparse.Namespace, is_train: bool, started: float) -> int:
    from amd_restore.models.ending import Stopped, StopRequest

    request = StopRequest()
    with request.heard() if is_train else contextlib.nullcontext():
        try:
            _patched_pipeline(args, is_train, started, request)
        except Stopped as stopped:
            sys.stderr.write(f"{stopped}\n")
            return stopped.exit_code
    return 0


def _one_of_several(args: argparse.Namespace, is_train: bool, started: float) -> NoReturn:
    from amd_restore.models.ending import Stopped
    from amd_restore.training.lost_process import Progress, is_lost, watched

    progress, code = Progress(), 0
    with watched(progress):
        try:
            _patched_pipeline(args, is_train, started, progress.request, progress)
        except Stopped as stopped:
            code = stopped.exit_code
            if not progress.rank:
                sys.stderr.write(f"{stopped}\n")
        except AMDRestoreError:
            progress.is_failing = True
            if progress.rank:
                # The first process reports the same error, and the launcher then ends this process.
                time.sleep(SAME_ERROR if getattr(args, "started", None) is None else 10 * SAME_ERROR)
            raise
        except RuntimeError as error:
            if args.debug or not is_lost(error):
                raise
            progress.end(f"another process was lost ({' '.join(str(error).split())[:120]}),")
    torch.distributed.barrier()  # gloo aborts if a process exits while another still communicates.
    time.sleep(AFTER_BARRIER)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(
        code
    )  # All files are written; gloo's threads can abort a regular exit, which torchrun reports as a failure.


def _patched_pipeline(
    args: argparse.Namespace, is_train: bool, started: float, request: StopRequest, progress: Progress | None = None
) -> None:
    import basicsr.test
    import basicsr.train

    from amd_restore.models.ending import Batches, Stopped
    from amd_restore.training.check import check_run
    from amd_restore.training.loaders import build_dataset, create_dataloaders

    # BasicSR steps every schedule each iteration, also before the first update of the student.
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
    module = basicsr.train if is_train else basicsr.test
    batches: list[Batches] = []
    options: list[dict[str, Any]] = []
    changes: list[str] = []
    locks = contextlib.ExitStack()

    def parse_options(root_path: str, is_train: bool = True) -> tuple[dict[str, Any], argparse.Namespace]:
        opt = prepare_options(args, Path(root_path), is_train)
        options.append(opt)
        if is_train and not args.check and opt["rank"] == 0:
            # Beside the folder, which BasicSR renames when a run begins anew, even under another process.
            run = Path(opt["path"]["experiments_root"])
            busy = f"{run}: is being trained by another process; wait for it, or give this run another name"
            locks.enter_context(held(run.with_name(f".{run.name}.lock"), busy, LOCKED))
        if progress is not None:
            progress.rank = opt["rank"]
            progress.states = Path(opt["path"]["training_states"]) if is_train else None
        return opt, args

    def resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        state = load_resume_state(opt)
        if state is not None:
            file = OptionFile.read(args.opt, args.force_yml)
            changes.extend(changed_options(file, Path(opt["path"]["resume_state"]).parent.parent))
        return state

    def loaders(opt: dict[str, Any], logger: logging.Logger) -> tuple[Any, ...]:
        for change in changes:
            logger.warning(change)
        train_loader, sampler, val_loaders, *lengths = create_dataloaders(opt, logger)
        batches.append(Batches(train_loader, val_loaders, request))
        return (batches[-1], sampler, val_loaders, *lengths)

    def build_model(opt: dict[str, Any]) -> Any:
        settle_devices(opt, basicsr.utils.get_root_logger())
        model = basicsr.models.build_model(opt)
        if progress is not None:
            progress.model = model
        if is_train:
            model.time_limit.started, model.stop_request, batches[-1].model = started, request, model
        return model

    def tested_dataset(block: dict[str, Any]) -> Any:
        (phase,) = (name for name, other in options[0]["datasets"].items() if other is block)
        return build_dataset(options[0], phase)

    def tested_loader(dataset: Any, *_: Any, **__: Any) -> Any:
        return torch.utils.data.DataLoader(dataset, batch_size=1)

    def message_logger(*arguments: Any) -> Any:
        batches[-1].messages = basicsr.utils.MessageLogger(*arguments)
        return batches[-1].messages

    module.parse_options, module.build_model = parse_options, build_model
    if not is_train:
        module.build_dataset, module.build_dataloader = tested_dataset, tested_loader
        module.test_pipeline(str(Path.cwd()))
        return
    if args.check:
        check_run(parse_options(str(Path.cwd()))[0], resume_state, loaders, build_model)
        return
    module.load_resume_state, module.create_train_val_dataloader = resume_state, loaders
    module.MessageLogger = message_logger
    module.copy_opt_file = lambda _, folder: None if progress and progress.rank else keep_options(args, folder)
    with locks:
        try:
            module.train_pipeline(str(Path.cwd()))
        except Stopped:
            if batches[-1].messages.tb_logger is not None:
                batches[-1].messages.tb_logger.close()  # Flushes the last curves.
            raise
