"""Runtimes of the network: torch, ONNX Runtime and OpenVINO.

Only the network runs in another runtime, on NumPy arrays; noise, sampling, codec and tiles are the same code for these
and for tensors. ONNX Runtime and OpenVINO need no torch.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from amd_restore.arrays import Array, host
from amd_restore.diffusion import CODECS, FlowMatching, RectifiedFlow
from amd_restore.errors import AMDRestoreError
from amd_restore.weights import Header, build_network

if TYPE_CHECKING:
    import torch

    from amd_restore.archs.base import RestorationNetwork
    from amd_restore.backends.runtime import GraphNetwork

BACKENDS = ("auto", "torch", "onnx", "openvino")
DTYPES = ("auto", "fp32", "bf16", "int8")
# Fastest first, see benchmarks/scripts/backends.py. Backends that do not support a dtype are not in its list.
RANKING = {
    "fp32": ("openvino", "onnx", "torch"),
    "bf16": ("openvino", "torch"),
    "int8": ("openvino", "onnx"),
}
GRAPHS = ("onnx", "openvino")  # backends that compute a graph, on the CPU
_PACKAGES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
_INSTALLED_BY = {"torch": "'amd-restore[torch]'", "onnx": "onnxruntime", "openvino": "'amd-restore[openvino]'"}
_NAMES = {"float32": "fp32", "bfloat16": "bf16"}


def installed(backend: str) -> bool:
    """Return whether the package of ``backend`` is installed, without importing it."""
    return importlib.util.find_spec(_PACKAGES[backend]) is not None


def default_backend() -> str:
    """Return the backend where none is named: torch where it is installed, else ``auto``."""
    return "torch" if installed("torch") else "auto"


def has_bfloat16(device: torch.device | str) -> bool:
    """Return :func:`amd_restore.precision.has_bfloat16`; False without torch, which finds it out."""
    if not installed("torch"):
        return False
    import torch

    from amd_restore import precision

    return precision.has_bfloat16(torch.device(device))


def default_threads() -> int:
    """Return torch's number of threads where it is loaded, else OMP_NUM_THREADS, else that of usable cores."""
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdecimal() and int(named):
        return int(named)
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, psutil.cpu_count(logical=False) or usable))


def has_graph(header: Header) -> bool:
    """Return whether the network has a graph, and what surrounds it computes on NumPy arrays."""
    from amd_restore.backends.graph import NETWORKS

    process = header.process.get("type", RectifiedFlow.name) in (RectifiedFlow.name, FlowMatching.name)
    return process and header.codec.get("type", CODECS[0]) in CODECS and header.network["type"] in NETWORKS


def choose_backend(
    header: Header,
    backend: str = "auto",
    dtype: str | torch.dtype = "auto",
    device: torch.device | str = "cpu",
) -> tuple[str, str]:
    """Return backend and arithmetic for these settings on this machine.

    ``auto`` is the first of :data:`RANKING` that is installed, and torch on devices other than the CPU and for networks
    without a graph. An ``auto`` dtype is bf16 if processor and backend support it, else fp32; never int8, which changes
    pixels (benchmarks/2026-11-23_constants.md).

    Args:
        header: header of the weights.
        backend: one of :data:`BACKENDS`.
        dtype: one of :data:`DTYPES`, or torch's float32 or bfloat16.
        device: device of the tensors.

    Returns:
        ``("torch" | "onnx" | "openvino", "fp32" | "bf16" | "int8")``.

    Raises:
        AMDRestoreError: an unknown name, a package that is not installed, or a combination that does not exist.
    """
    name = str(dtype).removeprefix("torch.")
    dtype = _NAMES.get(name, name)
    for what, value, known in (("backend", backend, BACKENDS), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise AMDRestoreError(f"{what} must be one of {', '.join(known)}, not {value!r}")
    on_cpu = str(device).partition(":")[0] == "cpu"
    if backend in GRAPHS and not on_cpu:
        raise AMDRestoreError(f"backend {backend} computes on the CPU, not on {device}; use torch, or --device cpu")
    if backend in GRAPHS and not has_graph(header):
        kind = header.network["type"]
        raise AMDRestoreError(f"{header.name}: there is no graph of {kind} for backend {backend}; use torch")
    if backend != "auto" and not installed(backend):
        raise AMDRestoreError(f"backend {backend} is not installed; pip install {_INSTALLED_BY[backend]}")
    if dtype == "auto":
        dtype = "bf16" if backend != "onnx" and has_bfloat16(device) else "fp32"
    if backend == "auto":
        only_torch = not (on_cpu and has_graph(header))
        if only_torch and not installed("torch"):
            raise AMDRestoreError(f"{header.name} on device {device} needs torch: pip install 'amd-restore[torch]'")
        able = [name for name in RANKING[dtype] if installed(name) and (name == "torch" or not only_torch)]
        if not able:
            reason = "for this network or device" if only_torch else "without pip install 'amd-restore[openvino]'"
            raise AMDRestoreError(f"dtype {dtype} is not available {reason}; use fp32 or bf16")
        return able[0], dtype
    if backend not in RANKING[dtype]:
        others = ", ".join(name for name, able in RANKING.items() if backend in able)
        raise AMDRestoreError(f"backend {backend} has no {dtype} on the CPU; it has {others}")
    return backend, dtype


def load_network(
    header: Header,
    state_dict: Mapping[str, Array],
    backend: str = "auto",
    dtype: str | torch.dtype = "auto",
    threads: int | None = None,
    device: torch.device | str = "cpu",
) -> RestorationNetwork | GraphNetwork:
    """Load the network of ``header`` on the backend of :func:`choose_backend`, in evaluation mode.

    Args:
        header: header of the weights.
        state_dict: weights, float32, as tensors or arrays.
        backend, dtype, device: see :func:`choose_backend`.
        threads: processor threads; those of torch hold for the whole process. None for :func:`default_threads`.

    Returns:
        ``net(x_t, t, cond, keep)``. For torch, the plain network in float32, to be run under autocast for bf16; for
        others, a graph with float32 inputs and outputs in any arithmetic.

    Raises:
        AMDRestoreError: as :func:`choose_backend`; weights that do not fit; weights without int8 ranges.
    """
    backend, dtype = choose_backend(header, backend, dtype, device)
    if backend == "torch":
        import torch

        if threads:
            torch.set_num_threads(threads)
        return build_network(header, {name: torch.as_tensor(value, device="cpu") for name, value in state_dict.items()})
    from amd_restore.backends import runtime
    from amd_restore.backends.graph import FlatOptions

    model = graph_bytes(header, state_dict, "int8" if dtype == "int8" else "fp32", backend)
    null_cond = np.ascontiguousarray(host(state_dict["null_cond"]), np.float32)
    own = (null_cond, FlatOptions.of(header), threads or default_threads())
    if backend == "onnx":
        return runtime.OnnxRuntimeNetwork(model, *own)
    low = dtype != "fp32" and has_bfloat16("cpu")  # Emulated bf16 is slower and less exact than float32.
    return runtime.OpenVINONetwork(model, "bf16" if low else "f32", *own)


def graph_bytes(header: Header, state_dict: Mapping[str, Array], dtype: str, backend: str) -> bytes:
    """Return the ONNX file of these weights.

    Args:
        header, state_dict: network.
        dtype: ``fp32`` or ``int8``.
        backend: runtime of the graph. ONNX Runtime fuses an 8-bit convolution only when its output is 8 bits too;
            OpenVINO is as fast and more exact without that.

    Raises:
        AMDRestoreError: weights without int8 ranges, weights that do not fit, or a network without a graph.
    """
    from amd_restore.backends.graph import build_graph

    ranges = None
    if dtype == "int8":
        from amd_restore.backends.stored_ranges import find_ranges

        ranges = find_ranges(header, state_dict)
        if backend == "openvino":
            ranges = {place: pair for place, pair in ranges.items() if place.endswith(":in")}
    return build_graph(header, {name: host(value) for name, value in state_dict.items()}, ranges)
