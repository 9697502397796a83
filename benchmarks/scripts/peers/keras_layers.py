"""Keras "layers models" (JSON and float32 weights), as TensorFlow.js keeps them, read by a small torch interpreter."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peer import PeerError
from torch import Tensor
from torch.nn import functional as F


class LayersModel:
    """A functional Keras model of the few layers that super-resolution networks are made of.

    Args:
        file: ``model.json``; the shards of weights lie beside it.

    Raises:
        PeerError: quantized weights, or a layer that is not known here.
    """

    def __init__(self, file: Path) -> None:
        content = json.loads(file.read_text(encoding="utf-8"))
        config = content["modelTopology"]["model_config"]["config"]
        self.layers: list[dict[str, Any]] = config["layers"]
        self.input, self.output = config["input_layers"][0][0], config["output_layers"][0][0]
        self.weights: dict[str, Tensor] = {}
        for group in content["weightsManifest"]:
            data = np.frombuffer(b"".join((file.parent / path).read_bytes() for path in group["paths"]), "<f4")
            for entry in group["weights"]:
                if entry["dtype"] != "float32" or "quantization" in entry:
                    raise PeerError(f"{entry['name']}: weights of type {entry['dtype']} or quantized")
                count = int(np.prod(entry["shape"]))
                self.weights[entry["name"]] = self._torch_order(data[:count].reshape(entry["shape"]))
                data = data[count:]

    def __call__(self, image: Tensor) -> Tensor:
        """Output (B, C, sH, sW) for an input (B, C, H, W)."""
        uses = Counter(name for layer in self.layers for name in self._sources(layer))
        values: dict[str, Tensor] = {self.input: image}
        for layer in self.layers:
            name = layer["name"]
            if name == self.input:
                continue
            sources = self._sources(layer)
            values[name] = self._apply(layer, [values[source] for source in sources])
            for source in sources:
                uses[source] -= 1
                if not uses[source]:
                    del values[source]  # hundreds of feature maps would not fit
        return values[self.output]

    @staticmethod
    def _sources(layer: dict[str, Any]) -> list[str]:
        return [node[0] for node in layer["inbound_nodes"][0]] if layer["inbound_nodes"] else []

    @staticmethod
    def _torch_order(array: NDArray[np.float32]) -> Tensor:
        """Kernels (kh, kw, in, out) become (out, in, kh, kw)."""
        return torch.from_numpy(array.transpose(3, 2, 0, 1).copy() if array.ndim == 4 else array.copy())

    def _apply(self, layer: dict[str, Any], inputs: list[Tensor]) -> Tensor:
        kind, config, first = layer["class_name"], layer["config"], inputs[0]
        if kind == "Conv2D":
            kernel = self.weights[f"{layer['name']}/kernel"]
            plain = config["padding"] == "same" and set(config["strides"]) == {1}
            if not plain or kernel.shape[2] % 2 == 0 or config.get("groups", 1) != 1:
                raise PeerError(f"{layer['name']}: a convolution of another kind than 'same' with stride 1")
            result = F.conv2d(first, kernel, self.weights.get(f"{layer['name']}/bias"), padding="same")
            return self._activate(result, config["activation"], layer["name"])
        if kind == "Activation":
            return self._activate(first, config["activation"], layer["name"])
        if kind == "Concatenate":
            return torch.cat(inputs, dim=1)
        if kind == "Add":
            return torch.stack(inputs).sum(0) if len(inputs) > 2 else inputs[0] + inputs[1]
        if kind == "MultiplyBeta":
            return first * float(config["beta"])
        if kind.startswith("PixelShuffle"):
            return depth_to_space(first, int(config["scale"]))
        raise PeerError(f"{layer['name']}: layers of type {kind} are not known")

    @staticmethod
    def _activate(value: Tensor, activation: str, name: str) -> Tensor:
        if activation == "linear":
            return value
        if activation == "relu":
            return F.relu(value)
        raise PeerError(f"{name}: activation {activation} is not known")


def depth_to_space(value: Tensor, scale: int) -> Tensor:
    """TensorFlow's order, in which colours are innermost; torch's ``pixel_shuffle`` has them outermost."""
    batch, channels, height, width = value.shape
    parts = value.reshape(batch, scale, scale, channels // scale**2, height, width)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, scale * height, scale * width)
