"""``amd-restore doctor``: which devices, arithmetics and backends compute the right image here, and how fast.

All restore the same 64x64 image with the default model, and are compared with what the CPU gives in float32. The exit
code is 0 where all are right, 1 where one is wrong.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from amd_restore import __version__
from amd_restore.apps.cli.console import STANDARD, Console
from amd_restore.apps.cli.parser import number
from amd_restore.atomic import path_option, try_writing
from amd_restore.errors import OK, SOME_FAILED, Parser, run_command

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from amd_restore.weights import Header

PACKAGES = ("torch", "onnxruntime", "openvino", "numpy")
SIDE = 64  # of the image, in pixels
ROUNDS = 3  # of timing, after one to warm up
_COLUMNS = "{:8}{:10}{:7}{:>9}{:>12}{:>11}  {}"


def build_parser() -> argparse.ArgumentParser:
    """Parser of ``amd-restore doctor``."""
    parser = Parser(prog="amd-restore doctor", description=__doc__)
    parser.add_argument("--threads", type=number(1), metavar="N", help="processor threads (default: torch's choice)")
    parser.add_argument("--json", type=path_option, metavar="FILE", help="also write the result as JSON; - for stdout")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    return run_command(lambda: run(options), options.debug, "amd-restore doctor")


def run(options: argparse.Namespace) -> int:
    """Check, print, write; returns the exit code.

    Raises:
        AMDRestoreError: the weights are missing, or the JSON file cannot be written.
    """
    from amd_restore.apps.cli.report import write_json

    if options.json not in (None, STANDARD):
        try_writing(options.json)
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    record = examine()
    console = Console(options.debug, quiet=options.json == STANDARD)
    for line in lines_of(record):
        console.say(line)
    if options.json:
        write_json(options.json, record)
    return OK if record["right"] else SOME_FAILED


class Check:
    """One device, backend and arithmetic, and what came of it.

    Args:
        device, backend, dtype: as on the command line.
        load: returns what restores the image.

    Attributes:
        fault: the first that occurred, in words; None if all is right.
    """

    def __init__(self, device: str, backend: str, dtype: str, load: Callable[[], Callable[[], Tensor]]) -> None:
        self.names = {"device": device, "backend": backend, "dtype": dtype}
        self.fault: str | None = None
        self._load = load
        self._restore: Callable[[], Tensor] | None = None
        self._seconds: list[float] = []
        self._difference = 0.0

    def repeat(self, lq: Tensor, expected: Tensor) -> None:
        """Restore ``lq`` once more, and compare with ``expected``; whatever fails is a fault."""
        from amd_restore.inference.check import difference, fault_of, first_line

        try:
            self._restore = self._restore or self._load()
            start = time.perf_counter()
            sr = self._restore()
            self._seconds.append(time.perf_counter() - start)
            fault = fault_of(sr, lq, expected, self.names["dtype"])
            self._difference = max(self._difference, difference(sr, expected), key=lambda x: (math.isnan(x), x))
        except Exception as error:  # a third party's: the other devices are still to be checked
            fault = first_line(error)
        self.fault = self.fault or fault

    def record(self) -> dict[str, Any]:
        """As a JSON object; None for times and differences that do not exist."""
        timed = self._seconds[1:]
        measured = bool(timed) and math.isfinite(self._difference)
        return {
            **self.names,
            "milliseconds": round(1000 * min(timed), 1) if timed else None,
            "difference": round(self._difference, 2) if measured else None,
            "fault": self.fault,
        }


def examine() -> dict[str, Any]:
    """The machine, the checks, and what ``auto`` chooses, as a JSON object."""
    import torch

    from amd_restore.backends import choose_backend
    from amd_restore.inference import check
    from amd_restore.precision import CPU, present_devices
    from amd_restore.weights import build_network

    header, state_dict = check.default_weights()
    lq = check.fixed_image(SIDE)
    expected = check.restoration(header, build_network(header, state_dict), CPU, torch.float32, lq)()
    checks = [one for device in present_devices() for one in _checks_of(device, header, state_dict, lq)]
    for _ in range(1 + ROUNDS):  # one after the other in each round, so that other programs disturb all alike
        for one in checks:
            one.repeat(lq, expected)
    device = check.sound_device("auto")
    chosen = {backend: choose_backend(header, backend, "auto", device) for backend in ("torch", "auto")}
    return {
        "version": __version__,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "devices": {str(device): _describe(device) for device in present_devices()},
        "model": header.name,
        "tolerances": check.TOLERANCES,
        "checks": [one.record() for one in checks],
        "chosen": {
            option: {"device": str(device), "backend": backend, "dtype": dtype}
            for option, (backend, dtype) in chosen.items()
        },
        "right": not any(one.fault for one in checks),
    }


def _checks_of(device: torch.device, header: Header, state_dict: dict[str, Tensor], lq: Tensor) -> Iterator[Check]:
    """Every backend and arithmetic that ``device`` has."""
    from amd_restore.backends import BACKENDS, RANKING, installed, load_network
    from amd_restore.inference.check import restoration
    from amd_restore.precision import has_bfloat16, resolve_dtype

    def check_of(backend: str, dtype: str) -> Check:
        def load() -> Callable[[], Tensor]:
            net = load_network(header, state_dict, backend, dtype, device=device)
            # Other backends take and give float32, whatever they compute in.
            arithmetic = resolve_dtype(dtype if backend == "torch" else "fp32", device)
            return restoration(header, net, device, arithmetic, lq)

        return Check(str(device), backend, dtype, load)

    if device.type != "cpu":
        # Without hardware for it, bf16 may not work at all, and nobody would choose it.
        return (check_of("torch", dtype) for dtype in ("fp32", "bf16") if dtype == "fp32" or has_bfloat16(device))
    present = [backend for backend in BACKENDS if backend != "auto" and installed(backend)]
    return (check_of(backend, dtype) for backend in present for dtype, able in RANKING.items() if backend in able)


def lines_of(record: dict[str, Any]) -> Iterator[str]:
    """The result of :func:`examine` for people."""
    yield ", ".join([f"amd-restore {record['version']}", record["system"], *map(" ".join, record["packages"].items())])
    yield f"threads: {record['threads']}, processors: {record['processors']}"
    for name, description in record["devices"].items():
        yield f"{name}: {description}"
    yield ""
    yield f"{record['model']}, {SIDE}x{SIDE} pixels, beside cpu torch fp32; differences in 1/255"
    yield _COLUMNS.format("device", "backend", "dtype", "ms", "difference", "tolerance", "result")
    for check in record["checks"]:
        names = [check[key] for key in ("device", "backend", "dtype")]
        figures = ["-" if check[key] is None else f"{check[key]:.1f}" for key in ("milliseconds", "difference")]
        result = f"WRONG: {check['fault']}" if check["fault"] else "right"
        yield _COLUMNS.format(*names, *figures, f"{record['tolerances'][check['dtype']]:.0f}", result)
    yield ""
    for option, names in record["chosen"].items():
        yield f"--device auto --backend {option} uses {' '.join(names.values())}"
    if not record["right"]:
        yield "do not use what is wrong: choose others by --device, --dtype and --backend"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _describe(device: torch.device) -> str:
    """Name and free memory of ``device``, or why it has none."""
    import torch

    from amd_restore.inference.check import first_line
    from amd_restore.inference.memory import available_memory

    try:
        if device.type == "cpu":
            name = torch.backends.cpu.get_cpu_capability()
        else:
            name = getattr(torch.get_device_module(device), "get_device_name", str)(device)
        return f"{name}, {available_memory(device) / 2**30:.1f} GiB of memory free"
    except RuntimeError as error:
        return first_line(error)
