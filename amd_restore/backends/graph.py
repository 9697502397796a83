"""Network as an ONNX graph: ``raw = graph(x_t, t, cond)``, any batch and size.

The graph is written node by node instead of traced, because the structure of a :class:`FlatDenoiser` takes a dozen
lines and then does not depend on a tracer's version. The 8-bit form has QuantizeLinear and DequantizeLinear around the
convolutions (QDQ), which both runtimes fuse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from amd_restore.errors import AMDRestoreError
from amd_restore.weights import METADATA_KEY, Header

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
Ranges = Mapping[str, tuple[float, float]]  # "blocks.0.conv1:in" -> smallest and largest value there

GRAPH_VERSION = 2  # part of the cache key: raise it when the nodes change
NETWORKS = ("FlatDenoiser",)
INPUTS, OUTPUT = ("x_t", "t", "cond"), "raw"
_OPSET, _IR_VERSION = 17, 8  # supported by all recent runtimes
_WEIGHT_LEVELS = 127  # symmetric int8
_MAX_FREQUENCY = 200.0  # that of time_features in archs/flat_arch.py


def build_graph(header: Header, state_dict: Mapping[str, Tensor], ranges: Ranges | None = None) -> onnx.ModelProto:
    """Build the ONNX model of a network's raw prediction, with the header in its metadata.

    Args:
        header: header of the network.
        state_dict: weights, float32.
        ranges: ranges of values at the convolutions, see :func:`~amd_restore.backends.calibration.measure_ranges`;
            None for float32. Convolutions without a range stay in float32.

    Returns:
        A checked model: inputs ``x_t`` (B, C, h, w), ``t`` (B,), ``cond`` (B, K, h, w), output ``raw`` (B, C, h, w).

    Raises:
        AMDRestoreError: no graph for this network, or the package ``onnx`` is missing.
    """
    kind = header.network["type"]
    if kind not in NETWORKS:
        raise AMDRestoreError(f"{header.name}: {kind} cannot be exported (only {', '.join(NETWORKS)}); use torch")
    try:
        import onnx
    except ImportError as error:
        raise AMDRestoreError("making an ONNX graph needs the package onnx: pip install 'amd-restore[onnx]'") from error
    weights = {name: tensor.detach().float().cpu().numpy() for name, tensor in state_dict.items()}
    writer = _Writer(weights, ranges or {})
    writer.flat_denoiser()
    writer.output(float(header.network.get("first_gain", 1.0)))
    channels, cond_channels = weights["conv_out.weight"].shape[0], weights["null_cond"].shape[1]
    kinds = {"x_t": ["batch", channels, "height", "width"], "t": ["batch"]}
    kinds |= {"cond": ["batch", cond_channels, "height", "width"], OUTPUT: kinds["x_t"]}
    values = {
        name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in kinds.items()
    }
    graph = onnx.helper.make_graph(
        writer.nodes, header.name, [values[name] for name in INPUTS], [values[OUTPUT]], writer.constants
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION, producer_name="amd-restore"
    )
    onnx.helper.set_model_props(model, {METADATA_KEY: header.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return model


class _Writer:
    """Builder of nodes and constants; each method returns the name of its value."""

    def __init__(self, weights: Mapping[str, Array], ranges: Ranges) -> None:
        import onnx

        self._onnx = onnx
        self._weights, self._ranges = weights, ranges
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._planes = self.constant(*_integers("plane_axes", 2, 3))
        self.last = ""  # the raw prediction, before the gain

    def flat_denoiser(self) -> None:
        """Add the nodes of :class:`~amd_restore.archs.flat_arch.FlatDenoiser` up to :meth:`output`."""
        emb = self.embedding()
        x = self.conv("conv_in", self.node("Concat", "x_t", "cond", axis=1))
        self.last = self.conv("conv_out", self.blocks(x, emb))

    def output(self, first_gain: float) -> None:
        """Multiply the last layer's result by the gain of the first step."""
        if first_gain == 1.0:
            self.node("Identity", self.last, output=OUTPUT)
            return
        one, gain = (self.constant(*value) for value in (("one", _scalar(1.0)), ("first_gain", _scalar(first_gain))))
        factor = self.node("Where", self.node("GreaterOrEqual", "t", one), gain, one)
        cube = self.constant(*_integers("cube_axes", 1, 2, 3))
        self.node("Mul", self.last, self.node("Unsqueeze", factor, cube), output=OUTPUT)

    def embedding(self) -> str:
        """Add the embedding of the time."""
        half = self._weights["time_mlp.0.weight"].shape[1] // 2
        frequencies = np.exp(np.linspace(0.0, math.log(_MAX_FREQUENCY), half)).astype(np.float32)[None]
        column = self.node("Unsqueeze", "t", self.constant(*_integers("last_axis", 1)))
        angles = self.node("Mul", column, self.constant("frequencies", frequencies))
        emb = self.node("Concat", self.node("Sin", angles), self.node("Cos", angles), axis=1)
        return self.linear("time_mlp.2", self.silu(self.linear("time_mlp.0", emb)))

    def blocks(self, x: str, emb: str) -> str:
        """Add the :class:`~amd_restore.archs.flat_arch.TimeBlock`s."""
        names = [name for name in self._weights if name.startswith("blocks.") and name.endswith(".conv1.weight")]
        for block in (f"blocks.{i}" for i in range(len(names))):
            bias = self.node("Unsqueeze", self.linear(f"{block}.time", emb), self._planes)
            hidden = self.silu(self.node("Add", self.conv(f"{block}.conv1", x), bias))
            x = self.node("Add", x, self.conv(f"{block}.conv2", hidden))
        return x

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: Array) -> str:
        self.constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def silu(self, x: str) -> str:
        return self.node("Mul", x, self.node("Sigmoid", x))

    def linear(self, layer: str, x: str) -> str:
        parameters = (self.constant(key, self._weights[key]) for key in (f"{layer}.weight", f"{layer}.bias"))
        return self.node("Gemm", x, *parameters, transB=1)

    def conv(self, layer: str, x: str) -> str:
        """Add a convolution, padded if 3x3, in 8 bits if its input has a range."""
        weight, bias = self._weights[f"{layer}.weight"], self.constant(f"{layer}.bias", self._weights[f"{layer}.bias"])
        if f"{layer}:in" in self._ranges:
            kernel = self._quantized_weight(f"{layer}.weight", weight)
            x = self._quantize(f"{layer}:in", x)
        else:
            kernel = self.constant(f"{layer}.weight", weight)
        shape = list(weight.shape[2:])
        y = self.node("Conv", x, kernel, bias, pads=[int(shape == [3, 3])] * 4, kernel_shape=shape)
        return self._quantize(f"{layer}:out", y) if f"{layer}:out" in self._ranges else y

    def _quantize(self, place: str, x: str) -> str:
        low, high = self._ranges[place]
        low, high = min(low, 0.0), max(high, 0.0)  # Zero must be exact, because it pads the image.
        step = max(high - low, 1e-8) / 255
        scale = self.constant(f"{place}.scale", np.array(step, np.float32))
        zero = self.constant(f"{place}.zero", np.array(round(-low / step), np.uint8))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, scale, zero), scale, zero)

    def _quantized_weight(self, name: str, weight: Array) -> str:
        step = np.maximum(np.abs(weight).max(axis=(1, 2, 3)), 1e-12) / _WEIGHT_LEVELS  # one for each output channel
        levels = np.rint(weight / step[:, None, None, None]).astype(np.int8)
        scale = self.constant(f"{name}.scale", step.astype(np.float32))
        zero = self.constant(f"{name}.zero", np.zeros(len(step), np.int8))
        return self.node("DequantizeLinear", self.constant(name, levels), scale, zero, axis=0)


def _integers(name: str, *values: int) -> tuple[str, Array]:
    return name, np.array(values, np.int64)


def _scalar(value: float) -> Array:
    return np.array(value, np.float32)
