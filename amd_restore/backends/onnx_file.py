"""ONNX files as bytes: the few messages of ONNX's protocol buffers that a graph needs, written directly.

The package onnx is larger than the rest of an install without torch, and takes longer to import than a small image to
restore. Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from amd_restore.arrays import HostArray

_OPSET, _IR_VERSION = 17, 8  # supported by all recent runtimes
_FLOAT = 1  # number of float32 among the types of tensors
_TYPES = {"float32": _FLOAT, "uint8": 2, "int8": 3, "int64": 7}


def model(
    name: str,
    nodes: Iterable[bytes],
    constants: Iterable[bytes],
    inputs: Mapping[str, Sequence[str | int]],
    outputs: Mapping[str, Sequence[str | int]],
    metadata: Mapping[str, str],
) -> bytes:
    """The file.

    Args:
        name: of the graph.
        nodes: of :func:`node`, in the order of computation.
        constants: of :func:`constant`.
        inputs, outputs: names and shapes, all float32; the sides that vary are named.
        metadata: texts by key.
    """
    graph = b"".join(_field(1, one) for one in nodes) + _text(2, name)
    graph += b"".join(_field(5, one) for one in constants)
    graph += b"".join(_field(11, _value(*one)) for one in inputs.items())
    graph += b"".join(_field(12, _value(*one)) for one in outputs.items())
    file = _number(1, _IR_VERSION) + _text(2, "amd-restore") + _field(7, graph)
    file += _field(8, _text(1, "") + _number(2, _OPSET))
    return file + b"".join(_field(14, _text(1, key) + _text(2, text)) for key, text in metadata.items())


def node(kind: str, inputs: Sequence[str], output: str, attributes: Mapping[str, int | Sequence[int]]) -> bytes:
    """One operation, named after its output; attributes are whole numbers or lists of them."""
    message = b"".join(_text(1, one) for one in inputs) + _text(2, output) + _text(3, output) + _text(4, kind)
    for name, value in attributes.items():
        if isinstance(value, int):
            attribute = _number(3, value) + _number(20, 2)
        else:
            attribute = b"".join(_number(8, one) for one in value) + _number(20, 7)
        message += _field(5, _text(1, name) + attribute)
    return message


def constant(name: str, value: HostArray) -> bytes:
    """A tensor with its values."""
    dims = b"".join(_number(1, side) for side in value.shape)
    # The bytes of a file are little-endian whatever the processor.
    data = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
    return dims + _number(2, _TYPES[value.dtype.name]) + _text(8, name) + _field(9, data)


def _value(name: str, shape: Sequence[str | int]) -> bytes:
    sides: list[Any] = [_text(2, side) if isinstance(side, str) else _number(1, side) for side in shape]
    tensor = _number(1, _FLOAT) + _field(2, b"".join(_field(1, side) for side in sides))
    return _text(1, name) + _field(2, _field(1, tensor))


def _field(number: int, payload: bytes) -> bytes:
    """A field of bytes: its number, its length, the bytes."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _number(number: int, value: int) -> bytes:
    """A field of a whole number from 0 on."""
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits in each byte, the lowest first; the highest bit says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
