"""Which arithmetic a processor really has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from amd_restore.inference.memory import flat_cost
from amd_restore.precision import convolves_in_bfloat16, has_bfloat16

SCRIPT = """
import torch
from amd_restore.precision import has_bfloat16, resolve_dtype
cpu = torch.device("cpu")
print(has_bfloat16(cpu), resolve_dtype("auto", cpu), resolve_dtype("bf16", cpu))
"""


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"])
def test_instructions_that_may_not_be_used_do_not_count(variable: str) -> None:
    environment = os.environ | {variable: "avx2"}
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    assert found.stdout.split() == ["False", "torch.float32", "torch.bfloat16"]


@pytest.mark.parametrize("name", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_a_processor_needs_the_instructions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not has_bfloat16(torch.device("cpu"))
    cpu, low = torch.device("cpu"), torch.bfloat16
    assert convolves_in_bfloat16(cpu) and flat_cost(64, low, cpu) < flat_cost(64, torch.float32, cpu)  # slow, but lean
    for absent in (False, True):
        with monkeypatch.context() as context:
            if absent:  # a build without oneDNN, on a processor without AVX-512
                context.delattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported")
                context.setattr(torch.ops, "mkldnn", object())
                context.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NEON")
            else:
                context.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
            assert not convolves_in_bfloat16(cpu) and flat_cost(64, low, cpu) > flat_cost(64, torch.float32, cpu)
    monkeypatch.setattr(torch.cpu, name, lambda: True)
    assert has_bfloat16(torch.device("cpu"))
    assert not has_bfloat16(torch.device("mps")) and not convolves_in_bfloat16(torch.device("mps"))
