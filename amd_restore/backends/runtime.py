"""Networks in another runtime with the same call: ``raw = net(x_t, t, cond, keep)`` on the CPU."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amd_restore.archs.base import RestorationNetwork
from amd_restore.backends.graph import INPUTS
from amd_restore.diffusion.denoiser import given_condition
from amd_restore.errors import AMDRestoreError

Array = np.ndarray[Any, Any]


class GraphNetwork(RestorationNetwork):
    """Graph of :mod:`~amd_restore.backends.graph` with the calling convention of the architectures.

    Thread-safe, without gradients.

    Args:
        null_cond: learned null condition (1, K, 1, 1).
        radius, multiple: see :class:`~amd_restore.archs.base.RestorationNetwork`.
    """

    def __init__(self, null_cond: Tensor, radius: int | None, multiple: int = 1) -> None:
        super().__init__()
        self.register_buffer("null_cond", null_cond.detach().float().cpu().clone(), persistent=False)
        self.radius, self.multiple = radius, multiple

    def run(self, x_t: Array, t: Array, cond: Array) -> Array:
        """Run the graph on contiguous float32 arrays; return a new array."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None, keep: Tensor | None = None) -> Tensor:
        """Return the raw prediction, float32; see :class:`~amd_restore.archs.base.RestorationNetwork`.

        Raises:
            AMDRestoreError: a tensor is not on the CPU.
        """
        if x_t.device.type != "cpu":
            raise AMDRestoreError(f"this backend computes on the CPU, not on {x_t.device}; use --backend torch")
        assert isinstance(self.null_cond, Tensor)
        cond = given_condition(cond, self.null_cond, keep, x_t)
        return torch.from_numpy(self.run(_array(x_t), _array(t), _array(cond)))


class OnnxRuntimeNetwork(GraphNetwork):
    """Network in ONNX Runtime.

    Args:
        model: the ONNX file's bytes.
        threads: processor threads.
        null_cond, radius, multiple: see :class:`GraphNetwork`.
    """

    def __init__(self, model: bytes, threads: int, null_cond: Tensor, radius: int | None, multiple: int = 1) -> None:
        super().__init__(null_cond, radius, multiple)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, x_t: Array, t: Array, cond: Array) -> Array:
        raw: Array = self._session.run(None, dict(zip(INPUTS, (x_t, t, cond), strict=True)))[0]
        return raw


class OpenVINONetwork(GraphNetwork):
    """Network in OpenVINO.

    Args:
        model: the ONNX file's bytes.
        precision: ``f32`` or ``bf16``, for layers that are not in 8 bits.
        threads: processor threads.
        null_cond, radius, multiple: see :class:`GraphNetwork`.
    """

    def __init__(
        self, model: bytes, precision: str, threads: int, null_cond: Tensor, radius: int | None, multiple: int = 1
    ) -> None:
        super().__init__(null_cond, radius, multiple)
        import openvino

        core = openvino.Core()
        config = {
            "INFERENCE_PRECISION_HINT": precision,  # OpenVINO's default is bf16 if the processor supports it.
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # With pinning, two processes would use the same cores.
        }
        self._compiled = core.compile_model(core.read_model(model), "CPU", config)
        self._requests = threading.local()  # A request can be used by one thread at a time.

    def run(self, x_t: Array, t: Array, cond: Array) -> Array:
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        raw: Array = self._requests.own.infer([x_t, t, cond], share_inputs=True)[0]
        return raw


def _array(value: Tensor) -> Array:
    return value.detach().float().contiguous().numpy()
