"""Each operation gives the same for a NumPy array as for a tensor, and noise, codec and samplers with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from amd_restore import arrays
from amd_restore.arrays import Array
from amd_restore.diffusion import (
    Denoiser,
    FlowMatching,
    PixelCodec,
    Process,
    Recipe,
    RectifiedFlow,
    ResidualCodec,
    cell_sized,
    field_noise,
    host_noise,
    restore_latent,
)
from amd_restore.diffusion.codec import upsample

KERNEL = np.array([0.1, 0.5, -0.2, 0.6], np.float32)
OPERATIONS: dict[str, Callable[[Array], Array]] = {
    "shuffle": lambda x: arrays.shuffle(x, 2),
    "unshuffle": lambda x: arrays.unshuffle(x, 3),
    "pad_edges": lambda x: arrays.pad_edges(x, 1, 2, 3, 0),
    "correlate rows": lambda x: arrays.correlate(x, KERNEL, 2),
    "correlate columns": lambda x: arrays.correlate(x, KERNEL, 3, stride=2),
    "correlate far": lambda x: arrays.correlate(x, KERNEL, 2, dilation=3),
    "upsample": lambda x: upsample(x, 3),
    "upsample by 1": lambda x: upsample(x, 1),
    "take": lambda x: arrays.take(x, np.array([2, 0, 0]), 2),
    "quarter_turns": lambda x: arrays.quarter_turns(x, 3),
    "mirrored": arrays.mirrored,
    "channels_first": lambda x: arrays.channels_first(x),
    "channels_last_memory": arrays.channels_last_memory,
    "where": lambda x: arrays.where(x > 0.5, x, 2 * x),
    "lerp": lambda x: arrays.lerp(x, 1 - x, 0.3),
    "clip_": lambda x: arrays.clip_(arrays.copied(x), 0.2, 0.6),
    "concatenate": lambda x: arrays.concatenate([x, x], 2),
    "broadcast": lambda x: arrays.broadcast(x[:1], (4, *x.shape[1:])),
    "zeros": lambda x: arrays.zeros((2, 3), x),
    "ones_like": arrays.ones_like,
    "doubles": arrays.doubles,
    "cell_sized": lambda x: cell_sized(x, 5),
    "falling": lambda x: arrays.falling(8, arrays.device_of(x)),
}


def pair(*shape: int) -> tuple[Array, Array]:
    values = np.random.default_rng(0).random(shape, np.float32)
    return values, torch.from_numpy(values)


def assert_equal(found: Any, expected: torch.Tensor) -> None:
    assert isinstance(found, np.ndarray) and isinstance(expected, torch.Tensor)
    assert found.dtype == expected.numpy().dtype and found.shape == tuple(expected.shape)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name: str) -> None:
    array, tensor = pair(2, 4, 12, 9)
    assert_equal(OPERATIONS[name](array), OPERATIONS[name](tensor))


def test_kinds_are_converted() -> None:
    array, tensor = pair(2, 3)
    assert arrays.is_array(array) and arrays.is_array(tensor) and not arrays.is_array([0.5])
    assert arrays.is_floating(array) and not arrays.is_floating(torch.zeros(1, dtype=torch.uint8))
    for one in (array, tensor):
        for other in (array, tensor):
            placed = arrays.placed(one, other, copy=True)
            assert type(placed) is type(other) and np.array_equal(arrays.host(placed), array)
            placed[0, 0] = 9.0
    assert array.max() < 9  # copies
    assert type(arrays.like(arrays.host(array), tensor)) is torch.Tensor
    assert arrays.floats(arrays.doubles(array)).dtype == np.float32


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf")])
def test_extremes_of_images(value: float) -> None:
    array, tensor = pair(3, 2, 4, 5)
    array[1, 0, 2, 2] = value  # the tensor shares the memory
    for found, expected in zip(arrays.extremes(array), arrays.extremes(tensor), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("window", [(-40, -7, 100, 190, 0), (0, 64, 32, 32, 2), (5, 5, 1, 3, 1)])
def test_noise_is_that_of_torch(window: tuple[int, int, int, int, int], threads: int) -> None:
    top, left, height, width, step = window
    for channels in (5, 48):
        found = host_noise((3, -1, 2**40), channels, top, left, height, width, step, threads)
        assert_equal(found, field_noise((3, -1, 2**40), channels, top, left, height, width, step))


@pytest.mark.parametrize("start", ["noise", "lq"])
@pytest.mark.parametrize("sampler", ["ode", "renoise"])
@pytest.mark.parametrize("process", [RectifiedFlow(), FlowMatching(3.0)])
@pytest.mark.parametrize("codec", [ResidualCodec(2, 4), PixelCodec(2, 4)])
def test_latents_are_restored_alike(codec: ResidualCodec, process: Process, sampler: str, start: str) -> None:
    """By a stand-in for a network, which is the same arithmetic for both."""

    def net(x_t: Array, t: Array, cond: Array, keep: Array | None = None) -> Array:
        return 0.3 * x_t + 0.1 * cond[:, :1] + 0.2 * t.reshape(-1, 1, 1, 1)

    def restored(lq: Array, noise: Array) -> Array:
        recipe = Recipe(3, sampler, 0.7, start, 0.4)
        denoiser = Denoiser(net, process)
        return codec.decode(restore_latent(denoiser, codec, lq, lambda step: noise * (1 + step), recipe), lq)

    arguments = zip(pair(2, 3, 8, 6), pair(2, 48, 4, 3), strict=True)
    found, expected = (restored(*kind) for kind in arguments)
    assert_equal(found, expected)
