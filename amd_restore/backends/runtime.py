"""Networks in another runtime with the same call, ``raw = net(x_t, t, cond, keep)``, on the CPU, without torch."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

import numpy as np

from amd_restore.arrays import Array, HostArray, host, like
from amd_restore.backends.graph import INPUTS, FlatOptions
from amd_restore.diffusion.denoiser import given_condition
from amd_restore.errors import AMDRestoreError


class GraphNetwork(ABC):
    """Graph of :mod:`~amd_restore.backends.graph` with the calling convention of the architectures.

    Thread-safe, without gradients.

    Args:
        null_cond: learned null condition (1, K, 1, 1).
        options: of the network.
        threads: processor threads.

    Attributes:
        radius, multiple: see :class:`~amd_restore.archs.base.RestorationNetwork`.
        num_feat: width.
    """

    multiple = 1

    def __init__(self, null_cond: HostArray, options: FlatOptions, threads: int) -> None:
        self.null_cond, self.threads = null_cond, threads
        self.radius, self.num_feat = options.radius, options.num_feat

    @abstractmethod
    def run(self, x_t: HostArray, t: HostArray, cond: HostArray) -> HostArray:
        """Run the graph on contiguous float32 arrays; return a new array."""

    def __call__(self, x_t: Array, t: Array, cond: Array | None, keep: Array | None = None) -> Array:
        """Return the raw prediction, float32, of the kind of ``x_t``; see :class:`RestorationNetwork`.

        Raises:
            AMDRestoreError: a tensor is not on the CPU.
        """
        if not isinstance(x_t, np.ndarray) and x_t.device.type != "cpu":
            raise AMDRestoreError(f"this backend computes on the CPU, not on {x_t.device}; use --backend torch")
        state, kept = host(x_t), None if keep is None else host(keep)
        cond = given_condition(None if cond is None else host(cond), self.null_cond, kept, state)
        return like(self.run(*(np.ascontiguousarray(value, np.float32) for value in (state, host(t), cond))), x_t)


class OnnxRuntimeNetwork(GraphNetwork):
    """Network in ONNX Runtime.

    Args:
        model: the ONNX file's bytes.
        null_cond, options, threads: see :class:`GraphNetwork`.
    """

    def __init__(self, model: bytes, null_cond: HostArray, options: FlatOptions, threads: int) -> None:
        super().__init__(null_cond, options, threads)
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 3  # errors only
        self._session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])

    def run(self, x_t: HostArray, t: HostArray, cond: HostArray) -> HostArray:
        raw: HostArray = self._session.run(None, dict(zip(INPUTS, (x_t, t, cond), strict=True)))[0]
        return raw


class OpenVINONetwork(GraphNetwork):
    """Network in OpenVINO.

    Args:
        model: the ONNX file's bytes.
        precision: ``f32`` or ``bf16``, for layers that are not in 8 bits.
        null_cond, options, threads: see :class:`GraphNetwork`.
    """

    def __init__(self, model: bytes, precision: str, null_cond: HostArray, options: FlatOptions, threads: int) -> None:
        super().__init__(null_cond, options, threads)
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

    def run(self, x_t: HostArray, t: HostArray, cond: HostArray) -> HostArray:
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        raw: HostArray = self._requests.own.infer([x_t, t, cond], share_inputs=True)[0]
        return raw
