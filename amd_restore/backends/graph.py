"""Network as an ONNX graph: ``raw = graph(x_t, t, cond)``, any batch and size.

The graph is written node by node instead of traced, because the structure of a FlatDenoiser
(:mod:`amd_restore.archs.flat_arch`) takes a dozen lines, and needs neither torch nor a tracer's version. The 8-bit form
has QuantizeLinear and DequantizeLinear around the convolutions (QDQ), which both runtimes fuse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from amd_restore.arrays import HostArray
from amd_restore.backends import onnx_file
from amd_restore.errors import AMDRestoreError
from amd_restore.weights import METADATA_KEY, Header

Ranges = Mapping[str, tuple[float, float]]  # "blocks.0.conv1:in" -> smallest and largest value there

NETWORKS = ("FlatDenoiser",)
INPUTS, OUTPUT = ("x_t", "t", "cond"), "raw"
_WEIGHT_LEVELS = 127  # symmetric int8
_MAX_FREQUENCY = 200.0  # that of time_features in archs/flat_arch.py


@dataclass(frozen=True)
class FlatOptions:
    """Arguments of FlatDenoiser, with its defaults."""

    in_channels: int = 48
    cond_channels: int = 3
    num_feat: int = 64
    num_block: int = 16
    time_feat: int = 64
    first_gain: float = 1.0

    @classmethod
    def of(cls, header: Header) -> FlatOptions:
        """Options of the network of a header.

        Raises:
            AMDRestoreError: no graph for this network, or an unknown option.
        """
        options = dict(header.network)
        kind = options.pop("type")
        if kind not in NETWORKS:
            raise AMDRestoreError(f"{header.name}: {kind} has no graph (only {', '.join(NETWORKS)}); use torch")
        try:
            return cls(**options)
        except TypeError as error:
            raise AMDRestoreError(f"weights of '{header.name}' do not fit {kind}: {error}") from error

    @property
    def radius(self) -> int:
        """Receptive field in cells to each side."""
        return 2 * self.num_block + 2

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights, by name."""
        width, time, channels = self.num_feat, self.time_feat, self.in_channels
        layers: dict[str, tuple[int, ...]] = {f"time_mlp.{i}": (time, time) for i in (0, 2)}
        layers["conv_in"] = (width, channels + self.cond_channels, 3, 3)
        layers["conv_out"] = (channels, width, 3, 3)
        for block in (f"blocks.{i}" for i in range(self.num_block)):
            layers |= {f"{block}.conv1": (width, width, 3, 3), f"{block}.conv2": (width, width, 3, 3)}
            layers[f"{block}.time"] = (width, time)
        shapes: dict[str, tuple[int, ...]] = {"null_cond": (1, self.cond_channels, 1, 1)}
        for layer, shape in layers.items():
            shapes |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
        return shapes


def build_graph(header: Header, weights: Mapping[str, HostArray], ranges: Ranges | None = None) -> bytes:
    """Build the ONNX file of a network's raw prediction, with the header in its metadata.

    Args:
        header: header of the network.
        weights: float32.
        ranges: ranges of values at the convolutions, see :func:`~amd_restore.backends.calibration.measure_ranges`;
            None for float32. Convolutions without a range stay in float32.

    Returns:
        A model with inputs ``x_t`` (B, C, h, w), ``t`` (B,), ``cond`` (B, K, h, w) and output ``raw`` (B, C, h, w).

    Raises:
        AMDRestoreError: no graph for this network, or weights that do not fit it.
    """
    options = FlatOptions.of(header)
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if wrong := sorted(dict(found.items() ^ options.shapes().items())):
        raise AMDRestoreError(
            f"weights of '{header.name}' do not fit {header.network['type']}: missing, unknown or of another shape: "
            f"{', '.join(wrong[:3])}{' ...' * (len(wrong) > 3)}"
        )
    writer = _Writer(weights, ranges or {})
    writer.flat_denoiser(options.num_block)
    writer.output(float(options.first_gain))
    state: list[str | int] = ["batch", options.in_channels, "height", "width"]
    inputs: dict[str, list[str | int]] = {
        "x_t": state,
        "t": ["batch"],
        "cond": ["batch", options.cond_channels, "height", "width"],
    }
    metadata = {METADATA_KEY: header.to_json()}
    return onnx_file.model(header.name, writer.nodes, writer.constants, inputs, {OUTPUT: state}, metadata)


class _Writer:
    """Builder of nodes and constants; each method returns the name of its value."""

    def __init__(self, weights: Mapping[str, HostArray], ranges: Ranges) -> None:
        self._weights, self._ranges = weights, ranges
        self.nodes: list[bytes] = []
        self.constants: list[bytes] = []
        self._planes = self.constant(*_integers("plane_axes", 2, 3))
        self.last = ""  # the raw prediction, before the gain

    def flat_denoiser(self, num_block: int) -> None:
        """Add the nodes of FlatDenoiser up to :meth:`output`."""
        emb = self.embedding()
        x = self.conv("conv_in", self.node("Concat", "x_t", "cond", axis=1))
        self.last = self.conv("conv_out", self.blocks(x, emb, num_block))

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

    def blocks(self, x: str, emb: str, num_block: int) -> str:
        """Add the residual blocks."""
        for block in (f"blocks.{i}" for i in range(num_block)):
            bias = self.node("Unsqueeze", self.linear(f"{block}.time", emb), self._planes)
            hidden = self.silu(self.node("Add", self.conv(f"{block}.conv1", x), bias))
            x = self.node("Add", x, self.conv(f"{block}.conv2", hidden))
        return x

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(onnx_file.node(kind, inputs, name, attributes))
        return name

    def constant(self, name: str, value: HostArray) -> str:
        self.constants.append(onnx_file.constant(name, value))
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

    def _quantized_weight(self, name: str, weight: HostArray) -> str:
        step = np.maximum(np.abs(weight).max(axis=(1, 2, 3)), 1e-12) / _WEIGHT_LEVELS  # one for each output channel
        levels = np.rint(weight / step[:, None, None, None]).astype(np.int8)
        scale = self.constant(f"{name}.scale", step.astype(np.float32))
        zero = self.constant(f"{name}.zero", np.zeros(len(step), np.int8))
        return self.node("DequantizeLinear", self.constant(name, levels), scale, zero, axis=0)


def _integers(name: str, *values: int) -> tuple[str, HostArray]:
    return name, np.array(values, np.int64)


def _scalar(value: float) -> HostArray:
    return np.array(value, np.float32)
