"""Runtimes of the network: torch, ONNX Runtime and OpenVINO.

Only the network runs in another runtime. Noise, sampling and codec stay in torch, because they take little of the time
(see benchmarks/2026-11-23_constants.md), and tiles, seeds and steps need no second implementation.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from amd_restore.errors import AMDRestoreError
from amd_restore.precision import CPU, has_bfloat16
from amd_restore.weights import Header, build_network

BACKENDS = ("auto", "torch", "onnx", "openvino")
DTYPES = ("auto", "fp32", "bf16", "int8")
# Fastest first, see benchmarks/scripts/backends.py. Backends that do not support a dtype are not in its list.
RANKING = {
    "fp32": ("openvino", "onnx", "torch"),
    "bf16": ("openvino", "torch"),
    "int8": ("openvino", "onnx"),
}
_PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
_TORCH_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", "float32": "fp32", "bfloat16": "bf16"}


def installed(backend: str) -> bool:
    """Return whether the package of ``backend`` is installed, without importing it."""
    return backend == "torch" or importlib.util.find_spec(_PACKAGES[backend]) is not None


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
    from amd_restore.backends.graph import NETWORKS

    dtype = _TORCH_DTYPES.get(dtype, str(dtype))
    for what, value, known in (("backend", backend, BACKENDS), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise AMDRestoreError(f"{what} must be one of {', '.join(known)}, not {value!r}")
    device, kind = torch.device(device), header.network["type"]
    if backend in _PACKAGES and device.type != "cpu":
        raise AMDRestoreError(f"backend {backend} computes on the CPU, not on {device}; use torch, or --device cpu")
    if backend in _PACKAGES and kind not in NETWORKS:
        raise AMDRestoreError(f"{header.name}: there is no graph of {kind} for backend {backend}; use torch")
    if backend in _PACKAGES and not installed(backend):
        raise AMDRestoreError(f"backend {backend} is not installed; pip install 'amd-restore[{backend}]'")
    if dtype == "auto":
        dtype = "bf16" if has_bfloat16(device) and backend != "onnx" else "fp32"
    if backend == "auto":
        only_torch = device.type != "cpu" or kind not in NETWORKS
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
    state_dict: Mapping[str, Tensor],
    backend: str = "auto",
    dtype: str | torch.dtype = "auto",
    threads: int | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Load the network of ``header`` on the backend of :func:`choose_backend`, in evaluation mode.

    Graphs are built once and kept in the user's cache.

    Args:
        header: header of the weights.
        state_dict: weights, float32.
        backend, dtype, device: see :func:`choose_backend`.
        threads: processor threads of another backend; None for torch's current number.

    Returns:
        ``net(x_t, t, cond, keep)``. For torch, the plain network in float32, to be run under autocast for bf16; for
        others, a network with float32 inputs and outputs in any arithmetic.

    Raises:
        AMDRestoreError: as :func:`choose_backend`; weights that do not fit; weights without int8 ranges.
    """
    backend, dtype = choose_backend(header, backend, dtype, device)
    if backend == "torch":
        return build_network(header, state_dict)
    with torch.device("meta"):
        plain = build_network(header)  # Built without weights, for its radius and the shapes of its weights.
    build_check = {name: tuple(value.shape) for name, value in plain.state_dict().items()}
    if build_check != {name: tuple(value.shape) for name, value in state_dict.items()}:
        build_network(header, state_dict)  # Raises an error about weights that do not fit.
    from amd_restore.backends import runtime

    model = graph_bytes(header, state_dict, "int8" if dtype == "int8" else "fp32", backend)
    threads = threads or torch.get_num_threads()
    own = (threads, state_dict["null_cond"], plain.radius, plain.multiple)
    if backend == "onnx":
        return runtime.OnnxRuntimeNetwork(model, *own).eval()
    low = dtype != "fp32" and has_bfloat16(CPU)  # Emulated bf16 is slower and less exact than float32.
    return runtime.OpenVINONetwork(model, "bf16" if low else "f32", *own).eval()


def graph_bytes(header: Header, state_dict: Mapping[str, Tensor], dtype: str, backend: str) -> bytes:
    """Return the ONNX file of these weights, from the cache or built now.

    Args:
        header, state_dict: network.
        dtype: ``fp32`` or ``int8``.
        backend: runtime of the graph. ONNX Runtime fuses an 8-bit convolution only when its output is 8 bits too;
            OpenVINO is as fast and more exact without that.

    Raises:
        AMDRestoreError: weights without int8 ranges, a network without a graph, or no package ``onnx``.
    """
    from amd_restore.backends.cache import cached
    from amd_restore.backends.graph import GRAPH_VERSION, build_graph

    ranges = None
    if dtype == "int8":
        from amd_restore.backends.calibration import find_ranges

        ranges = find_ranges(header, state_dict)
        if backend == "openvino":
            ranges = {place: pair for place, pair in ranges.items() if place.endswith(":in")}
    digest = hashlib.sha256(f"{GRAPH_VERSION} {header.to_json()} {json.dumps(ranges)}".encode())
    for name in sorted(state_dict):
        digest.update(state_dict[name].detach().float().cpu().contiguous().numpy().tobytes())
    key = f"{header.name}-{dtype}-{digest.hexdigest()[:24]}"
    return cached(key, lambda: build_graph(header, state_dict, ranges).SerializeToString())
