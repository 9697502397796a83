"""Miniature runs of several processes: the same cases in one process and, through torchrun, in two."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from places import REPOSITORY
from training_setup import TINY_NETWORK, load_miniature
from warm_python import warm_python

from amd_restore.archs.flat_arch import FlatDenoiser

ITERATIONS = 4
IMAGES = 4  # of all processes, per iteration
# Logged values that are not compared: seconds, and how many advantages reach 1, which in groups of two is where all
# are but for the last digit.
UNSTEADY = ("amd/overhead", "amd/clipped_share")


def make_weights(folder: Path) -> Path:
    """A network that answers with something, as every network of a case."""
    torch.manual_seed(5)
    arguments: dict[str, Any] = {key: value for key, value in TINY_NETWORK.items() if key != "type"}
    net = FlatDenoiser(**arguments)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.1)
    path = folder / "start.pth"
    torch.save({"params": net.state_dict(), "params_ema": net.state_dict()}, path)
    return path


def make_options(folder: Path, recipe: str, name: str = "", **changes: Any) -> dict[str, Any]:
    """A miniature option file; ``changes`` have ``__`` for a block, as in ``distill__spatial=True``.

    Adam's first steps are the sign of a gradient, however small: its ``eps`` is raised far above the rounding of sums
    of another order, which would otherwise move single weights by as much as any gradient. That rounding is larger in
    advantages, quotients of differences of nearly equal rewards, and differs between processors.
    """
    options = load_miniature(recipe, folder, str(folder / "start.pth"), ITERATIONS)
    options.update(name=name or options["name"], amp="none", num_gpu=0, manual_seed=3)
    if options["network_g"]["type"] == TINY_NETWORK["type"]:
        options["network_g"] = dict(TINY_NETWORK)  # as in start.pth, also where the student is another network
    options["datasets"]["train"]["batch_size_per_gpu"] = IMAGES
    for key in [key for key in options["train"] if key.startswith("optim_")]:
        options["train"][key]["eps"] = 1e-3
    if "distill" in options:
        options["distill"].update(fake_updates_per_student=2, group_size=2, std_floor=1.0, num_steps=[1, 2, 4])
        options["distill"].pop("step_weights", None)
    for key, value in changes.items():
        block, target = options, key.split("__")
        for part in target[:-1]:
            block = block.setdefault(part, {})
        block[target[-1]] = value
    return options


def train(options: dict[str, Any], folder: Path, iterations: int = ITERATIONS) -> dict[str, Any]:
    """Train in this process, alone or as one of several, and return what a run leaves behind."""
    from amd_restore.registry import import_basicsr, register_all

    import_basicsr()
    register_all(training=True)
    from basicsr.models import build_model
    from basicsr.utils import get_root_logger

    from amd_restore.models.distributed import process_count, process_rank
    from amd_restore.training.loaders import create_dataloaders
    from amd_restore.training.pipeline import prepare_options

    file = folder / f"{options['name']}_{process_count()}_{process_rank()}.yml"
    file.write_text(yaml.safe_dump(options), encoding="utf-8")
    launcher = "pytorch" if "RANK" in os.environ else "none"
    args = argparse.Namespace(opt=str(file), force_yml=[], launcher=launcher, auto_resume=False, debug=False)
    opt = prepare_options(args, folder, is_train=True)
    loader = create_dataloaders(opt, get_root_logger())[0]
    model: Any = build_model(opt)
    logs = []
    for iteration, data in zip(range(1, iterations + 1), loader, strict=False):
        model.update_learning_rate(iteration)
        model.feed_data(data)
        model.optimize_parameters(iteration)
        if iteration % 2 == 0:
            log = model.get_current_log()
            logs.append({key: value for key, value in log.items() if key not in UNSTEADY})
    nets = {key: getattr(model, key) for key in ("net_g", "net_g_ema", "net_fake") if hasattr(model, key)}
    return {
        "weights": {key: model.get_bare_model(net).state_dict() for key, net in nets.items()},
        "moments": [optimizer.state_dict()["state"] for optimizer in model.optimizers],
        "extra": model.extra_state(),
        "logs": logs,
    }


def torchrun(arguments: list[str], folder: Path, processes: int = 2) -> subprocess.Popen[str]:
    """Start ``torchrun`` on this machine, all of it quickly."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests' / 'helpers'}",
    }
    command = [warm_python(), *launcher, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def difference(a: Any, b: Any) -> float:
    """Greatest difference in a nest of numbers and tensors, relative to those above 1."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), a.keys() ^ b.keys()
        return max((difference(a[key], b[key]) for key in a), default=0.0)
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        return max((difference(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if isinstance(a, str):
        assert a == b
        return 0.0
    x, y = (torch.as_tensor(value, dtype=torch.float64) for value in (a, b))
    assert x.shape == y.shape
    assert torch.equal(x.isnan(), y.isnan())
    return float(((x - y) / y.abs().clamp_min(1.0)).nan_to_num().abs().max()) if x.numel() else 0.0


if (
    __name__ == "__main__"
):  # torchrun tests/helpers/distributed_setup.py FOLDER: every FOLDER/cases/*.yml, for the test beside it
    root = Path(sys.argv[1])
    torch.set_num_threads(1)
    for case in sorted((root / "cases").glob("*.yml")):
        result = train(yaml.safe_load(case.read_text(encoding="utf-8")), root)
        if os.environ["RANK"] == "0":
            torch.save(result, root / f"{case.stem}.pt")
    torch.distributed.barrier()
    # The results are written. After several trainings in one process gloo's threads now and then abort the shutdown.
    os._exit(0)
