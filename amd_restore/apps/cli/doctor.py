"""``amd-restore doctor``: which devices, arithmetics and backends compute the right image here, and how fast.

All restore the same 64x64 image with `x4-real`, and are compared with what the CPU gives in float32. The exit
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

    from amd_restore.arrays import HostArray
    from amd_restore.weights import Header

PACKAGES = ("torch", "onnxruntime", "openvino", "numpy")
SIDE = 64  # of the image, in pixels
ROUNDS = 3  # of timing, after one to warm up
_COLUMNS = "{:8}{:10}{:7}{:>9}{:>12}{:>11}  {}"


def build_parser() -> argparse.ArgumentParser:
    """Parser of ``amd-restore doctor``."""
    parser = Parser(prog="amd-restore doctor", description=__doc__)
    parser.add_argument(
        "--threads", type=number(1), metavar="N", help="processor threads (default: the backend's choice)"
    )
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
    record = examine(options.threads)
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

    def __init__(self, device: str, backend: str, dtype: str, load: Callable[[], Callable[[], HostArray]]) -> None:
        self.names = {"device": device, "backend": backend, "dtype": dtype}
        self.fault: str | None = None
        self._load = load
        self._restore: Callable[[], HostArray] | None = None
        self._seconds: list[float] = []
        self._difference = 0.0

    def repeat(self, lq: HostArray, expected: HostArray) -> None:
        """Restore ``lq`` once more, and compare with ``expected``; whatever fails is a fault."""
        from amd_restore.inference.trial import difference, fault_of, first_line

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


def examine(threads: int | None = None) -> dict[str, Any]:
    """The machine, the checks, and what ``auto`` chooses, as a JSON object.

    Args:
        threads: processor threads; None leaves them to the backends.
    """
    from amd_restore.backends import choose_backend, default_threads, installed, load_network
    from amd_restore.inference import trial
    from amd_restore.weights import DEFAULT_MODEL, load_arrays, resolve_weights

    header, weights = load_arrays(resolve_weights(DEFAULT_MODEL))
    lq = trial.fixed_image(SIDE)
    reference = "torch" if installed("torch") else "onnx"
    net = load_network(header, weights, reference, "fp32", threads)
    expected = trial.restoration(header, net, *_place("cpu", "fp32"), lq)()
    devices, device = _devices()
    checks = [one for name in devices for one in _checks_of(name, header, weights, lq, threads)]
    for _ in range(1 + ROUNDS):  # one after the other in each round, so that other programs disturb all alike
        for one in checks:
            one.repeat(lq, expected)
    options = ("torch", "auto") if installed("torch") else ("auto",)
    chosen = {backend: choose_backend(header, backend, "auto", device) for backend in options}
    return {
        "version": __version__,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "threads": threads or default_threads(),
        "processors": os.cpu_count(),
        "devices": {name: _describe(name) for name in devices},
        "model": header.name,
        "reference": reference,
        "tolerances": trial.TOLERANCES,
        "checks": [one.record() for one in checks],
        "chosen": {
            option: {"device": device, "backend": backend, "dtype": dtype}
            for option, (backend, dtype) in chosen.items()
        },
        "right": not any(one.fault for one in checks),
    }


def _devices() -> tuple[list[str], str]:
    """Names of the devices of this machine, and that of the one which ``auto`` chooses."""
    from amd_restore.backends import installed

    if not installed("torch"):
        return ["cpu"], "cpu"
    from amd_restore.inference.check import sound_device
    from amd_restore.precision import present_devices

    return [str(device) for device in present_devices()], str(sound_device("auto"))


def _place(device: str, dtype: str) -> tuple[torch.device | None, torch.dtype | None]:
    """Device and arithmetic of torch; None without it."""
    from amd_restore.backends import installed

    if not installed("torch"):
        return None, None
    from amd_restore.precision import resolve_device, resolve_dtype

    found = resolve_device(device)
    return found, resolve_dtype(dtype, found)


def _checks_of(
    device: str, header: Header, weights: dict[str, HostArray], lq: HostArray, threads: int | None
) -> Iterator[Check]:
    """Every backend and arithmetic that ``device`` has."""
    from amd_restore.backends import BACKENDS, RANKING, has_bfloat16, installed, load_network
    from amd_restore.inference.trial import restoration

    def check_of(backend: str, dtype: str) -> Check:
        def load() -> Callable[[], HostArray]:
            net = load_network(header, weights, backend, dtype, threads, device)
            # Other backends take and give float32, whatever they compute in.
            return restoration(header, net, *_place(device, dtype if backend == "torch" else "fp32"), lq)

        return Check(device, backend, dtype, load)

    if device != "cpu":
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
    yield f"{record['model']}, {SIDE}x{SIDE} pixels, beside cpu {record['reference']} fp32; differences in 1/255"
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


def _describe(name: str) -> str:
    """What is behind the name of a device, and its free memory, or why it has none."""
    from amd_restore.inference.memory import available_memory
    from amd_restore.inference.trial import first_line

    device, _ = _place(name, "fp32")
    try:
        return f"{_kind(device)}, {available_memory(device) / 2**30:.1f} GiB of memory free"
    except RuntimeError as error:
        return first_line(error)


def _kind(device: torch.device | None) -> str:
    if device is None:
        return platform.processor() or platform.machine()
    import torch

    if device.type == "cpu":
        return torch.backends.cpu.get_cpu_capability()
    return str(getattr(torch.get_device_module(device), "get_device_name", str)(device))
