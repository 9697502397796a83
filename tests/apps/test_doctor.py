"""``amd-restore doctor`` finds what computes wrong images, and says what is chosen instead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from pretend_cuda import forget_networks, pretend_cuda
from tiny_model import tiny_header, tiny_state

from amd_restore import weights
from amd_restore.apps.cli import doctor, main
from amd_restore.image_io import Picture, write_image
from amd_restore.inference import check
from amd_restore.weights import DEFAULT_MODEL, save_checkpoint

PROCESSOR = {("torch", "fp32"), ("torch", "bf16"), ("onnx", "fp32"), ("onnx", "int8")}
PROCESSOR |= {("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8")}


@pytest.fixture(autouse=True)
def small_and_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A smaller image, one round, no graphs of the user's cache, and no verdict from before.

    The model, too, is the smallest that is released; one test has the right one.
    """
    for module in (weights, check):
        monkeypatch.setattr(module, "DEFAULT_MODEL", "x4-classical-tiny")
    monkeypatch.setattr(doctor, "SIDE", 16)
    monkeypatch.setattr(doctor, "ROUNDS", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    check.device_fault.cache_clear()
    yield
    forget_networks()


def examined(tmp_path: Path) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of the command."""
    code = main(["doctor", "--json", str(tmp_path / "doctor.json"), "--threads", "1"])
    return code, json.loads((tmp_path / "doctor.json").read_text(encoding="utf-8"))


def faults(record: dict[str, Any], device: str) -> dict[tuple[str, str], str | None]:
    checks = [one for one in record["checks"] if one["device"] == device]
    return {(one["backend"], one["dtype"]): one["fault"] for one in checks}


def test_all_is_right_on_the_processor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "DEFAULT_MODEL", DEFAULT_MODEL)
    code, record = examined(tmp_path)
    assert (code, record["right"], record["threads"]) == (0, True, 1)
    assert faults(record, "cpu") == dict.fromkeys(PROCESSOR)
    assert all(one["milliseconds"] > 0 and one["difference"] is not None for one in record["checks"])
    assert record["chosen"]["torch"]["device"] == "cpu" and record["chosen"]["auto"]["backend"] == "openvino"
    printed = capsys.readouterr()
    assert printed.err == "" and "WRONG" not in printed.out
    assert len([line for line in printed.out.splitlines() if line.endswith("right")]) == len(PROCESSOR)


@pytest.mark.parametrize(("wrong", "fault"), [(float("nan"), "not finite"), (0.0, "off by"), (100.0, "black")])
def test_a_wrong_kernel_is_found_and_its_device_not_chosen(
    wrong: float, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pretend_cuda(wrong):
        code, record = examined(tmp_path)
    assert (code, record["right"]) == (1, False)
    found = faults(record, "cuda")
    assert set(found) == {("torch", "fp32"), ("torch", "bf16")}
    assert all(str(one).startswith(fault) for one in found.values())
    assert faults(record, "cpu") == dict.fromkeys(PROCESSOR)
    assert {names["device"] for names in record["chosen"].values()} == {"cpu"}
    printed = capsys.readouterr().out
    assert printed.count(f"WRONG: {fault}") == 2 and "cuda: pretended GPU" in printed


def test_a_right_device_is_chosen(tmp_path: Path) -> None:
    with pretend_cuda():
        code, record = examined(tmp_path)
    assert code == 0
    assert record["chosen"] == dict.fromkeys(("torch", "auto"), {"device": "cuda", "backend": "torch", "dtype": "bf16"})


def test_a_backend_that_fails_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ImportError("libgomp.so.1: cannot open\nshared object file")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    code, record = examined(tmp_path)
    broken = dict.fromkeys([("onnx", "fp32"), ("onnx", "int8")], "libgomp.so.1: cannot open")
    assert (code, faults(record, "cpu")) == (1, dict.fromkeys(PROCESSOR) | broken)


def test_json_on_standard_output_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pretend_cuda(float("nan")):
        assert main(["doctor", "--json", "-"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["checks"][0]["difference"] is None
    assert "WRONG: not finite" in printed.err


def test_a_black_result_ends_the_command_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tiny_state()
    state["conv_out.bias"] += 1000.0
    save_checkpoint(tmp_path / "black.safetensors", state, tiny_header())
    write_image(tmp_path / "gray.png", Picture(np.full((8, 8, 3), 128, np.uint8)))
    files = ["-i", str(tmp_path / "gray.png"), "-o", str(tmp_path / "out.png")]
    assert main([*files, "--model", str(tmp_path / "black.safetensors"), "--device", "cpu"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is black" in line and all(
        remedy in line for remedy in ("amd-restore doctor", "--dtype fp32", "--device cpu")
    )
    assert not (tmp_path / "out.png").exists()
