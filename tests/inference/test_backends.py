"""ONNX Runtime and OpenVINO give torch's pictures; exports carry the header."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from places import REPOSITORY
from tiny_model import save_tiny, tiny_header, tiny_state
from torch import Tensor

from amd_restore import backends
from amd_restore.apps.cli.export import export, main
from amd_restore.archs.flat_arch import FlatDenoiser
from amd_restore.backends import calibration, choose_backend, graph_bytes, load_network, stored_ranges
from amd_restore.backends.graph import FlatOptions
from amd_restore.errors import AMDRestoreError
from amd_restore.pipeline import RestorationPipeline
from amd_restore.weights import METADATA_KEY, Header, build_network, load_arrays, load_checkpoint, resolve_weights

LOWRES = REPOSITORY / "lowres"
RUNTIMES = ("onnx", "openvino")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    """Each runtime that is installed."""
    if not backends.installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


def photograph(height: int, width: int, count: int = 1) -> Tensor:
    """Corners of photographs, (count, 3, height, width) in [0, 1]."""
    files = sorted(LOWRES.glob("*.png"))[:count]
    pixels = [np.asarray(Image.open(file).convert("RGB"))[:height, :width] for file in files]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255


def restore(lq: Tensor, backend: str, dtype: str, steps: int) -> Tensor:
    """The released student on a backend."""
    header, state = load_checkpoint(resolve_weights("x4-classical"))
    return RestorationPipeline(header, load_network(header, state, backend, dtype), "cpu", "float32")(
        lq, num_steps=steps, seed=3
    )


@pytest.mark.parametrize(
    ("batch", "height", "width", "first_gain"), [(1, 8, 8, 1.0), (1, 9, 17, 1.0), (3, 16, 11, 1.5), (3, 1, 2, 1.0)]
)
def test_any_batch_and_size_agree_with_torch(
    runtime: str, batch: int, height: int, width: int, first_gain: float
) -> None:
    header, state = tiny_header(), tiny_state(num_block=2)
    header = tiny_header(network={**header.network, "num_block": 2, "first_gain": first_gain})
    plain, other = build_network(header, state), load_network(header, state, runtime, "fp32", threads=1)
    x_t, cond = torch.randn(batch, 48, height, width), torch.randn(batch, 3, height, width)
    x_t = x_t.to(memory_format=torch.channels_last)  # as the pipeline passes it
    t = torch.linspace(0, 1, batch)
    keep = torch.arange(batch) % 2 == 0
    with torch.no_grad():
        for arguments in ((x_t, t, cond), (x_t, t, None), (x_t, t, cond, keep)):
            expected = plain(*arguments)
            torch.testing.assert_close(other(*arguments), expected, rtol=1e-4, atol=1e-4)
    assert other.radius == plain.radius == 6


@pytest.mark.parametrize(("count", "height", "width", "steps"), [(1, 48, 64, 1), (3, 37, 45, 1), (1, 37, 45, 2)])
def test_photographs_agree_with_torch_within_one_grey_level(
    runtime: str, count: int, height: int, width: int, steps: int
) -> None:
    lq = photograph(height, width, count)
    difference = restore(lq, runtime, "fp32", steps) - restore(lq, "torch", "fp32", steps)
    assert float(difference.abs().max()) < 0.1 / 255


@pytest.mark.parametrize("steps", [1, 4])
def test_int8_changes_little(runtime: str, steps: int) -> None:
    lq = photograph(48, 64)
    difference = 255 * (restore(lq, runtime, "int8", steps) - restore(lq, "torch", "fp32", steps)).abs()
    assert 0.01 < float(difference.mean()) < 0.6  # it is another arithmetic, and close
    assert float(difference.max()) < 10


def test_bfloat16_of_openvino_changes_little() -> None:
    pytest.importorskip("openvino")
    lq = photograph(48, 64)
    difference = 255 * (restore(lq, "openvino", "bf16", 1) - restore(lq, "torch", "fp32", 1)).abs()
    assert float(difference.mean()) < 0.2
    assert float(difference.max()) < 3


def test_int8_keeps_lpips(runtime: str, assets: Path) -> None:
    from amd_restore.rewards import build_lpips

    def read(kind: str) -> Tensor:
        pixels = np.asarray(Image.open(assets / "benchmarks" / "Set5" / kind / "img_003.png").convert("RGB"))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255

    lpips, gt, lq = build_lpips("alex", "cpu"), read("GTmod4"), read("LRbicx4")
    with torch.no_grad():
        plain, quantized = (
            float(lpips(restore(lq, *choice, 1), gt)) for choice in (("torch", "fp32"), (runtime, "int8"))
        )
    assert abs(quantized - plain) < 0.005


def test_threads_may_share_a_network(runtime: str) -> None:
    header, state = tiny_header(), tiny_state()
    net = load_network(header, state, runtime, "fp32", threads=1)
    inputs = [(torch.randn(1, 48, 24, 24), torch.ones(1), torch.randn(1, 3, 24, 24)) for _ in range(4)]
    expected = [net(*arguments) for arguments in inputs]
    found: dict[int, list[Tensor]] = {}

    def work(index: int) -> None:
        found[index] = [net(*inputs[index]) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, answers in found.items():
        assert all(torch.equal(answer, expected[index]) for answer in answers)
    assert len(found) == len(inputs)


def test_choice_of_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    present = {"torch", "onnx", "openvino"}
    monkeypatch.setattr(backends, "installed", lambda name: name in present)
    monkeypatch.setattr(backends, "has_bfloat16", lambda device: True)
    header = tiny_header()
    assert choose_backend(header) == ("openvino", "bf16")
    assert choose_backend(header, "onnx") == ("onnx", "fp32")
    assert choose_backend(header, "torch", torch.float32) == ("torch", "fp32")
    assert choose_backend(header, dtype="int8") == ("openvino", "int8")
    unet = tiny_header(network={"type": "CondUNet"})
    assert choose_backend(unet) == ("torch", "bf16")
    present.remove("openvino")
    assert choose_backend(header) == ("torch", "bf16")
    assert choose_backend(header, dtype="fp32") == ("onnx", "fp32")
    assert choose_backend(header, dtype="int8") == ("onnx", "int8")
    present.remove("onnx")
    assert choose_backend(header, dtype="fp32") == ("torch", "fp32")
    monkeypatch.setattr(backends, "has_bfloat16", lambda device: False)
    assert choose_backend(header) == ("torch", "fp32")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tensorrt",), "backend must be one of"),
        (("auto", "fp16"), "dtype must be one of"),
        (("onnx", "bf16"), "has no bf16 on the CPU; it has fp32, int8"),
        (("torch", "int8"), "has no int8"),
        (("onnx", "fp32", "cuda"), "computes on the CPU, not on cuda"),
        (("openvino",), r"not installed; pip install 'amd-restore\[openvino\]'"),
        (("auto", "int8"), "int8 is not available without"),
    ],
)
def test_what_cannot_be_chosen(arguments: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "installed", lambda name: name in ("torch", *["onnx"] * (arguments[0] == "onnx")))
    with pytest.raises(AMDRestoreError, match=says):
        choose_backend(tiny_header(), *arguments)


def test_other_networks_have_no_graph(runtime: str) -> None:
    with pytest.raises(AMDRestoreError, match="no graph of CondUNet"):
        choose_backend(tiny_header(network={"type": "CondUNet"}), runtime)


def test_weights_that_do_not_fit(runtime: str) -> None:
    with pytest.raises(AMDRestoreError, match="do not fit FlatDenoiser"):
        load_network(tiny_header(), tiny_state(num_block=3), runtime, "fp32")


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_graphs_are_valid_onnx(dtype: str) -> None:
    onnx = pytest.importorskip("onnx")
    header, weights = load_arrays(resolve_weights("x4-classical-tiny"))
    model = onnx.load_from_string(graph_bytes(header, weights, dtype, "onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert {one.key: one.value for one in model.metadata_props} == {METADATA_KEY: header.to_json()}
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    np.testing.assert_array_equal(stored["conv_in.weight"], weights["conv_in.weight"])
    assert (stored["blocks.0.conv1.weight"].dtype == np.int8) == (dtype == "int8")
    assert [one.dim_param or one.dim_value for one in model.graph.input[0].type.tensor_type.shape.dim] == [
        *("batch", 48, "height", "width")
    ]


@pytest.mark.parametrize("options", [{}, {"num_feat": 8, "num_block": 2, "time_feat": 16, "cond_channels": 48}])
def test_the_shapes_of_a_graph_are_those_of_the_network(options: dict[str, int]) -> None:
    net = FlatDenoiser(**options)
    flat = FlatOptions.of(tiny_header(network={"type": "FlatDenoiser", **options}))
    assert flat.shapes() == {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert flat.radius == net.radius and flat.first_gain == net.first_gain


def test_a_user_without_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(number: int) -> None:  # as in containers that run under any number
        raise KeyError(number)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    header, state = load_checkpoint(resolve_weights("x4-classical"))
    assert stored_ranges.find_ranges(header, state)
    with pytest.raises(AMDRestoreError, match="no int8 ranges"):
        stored_ranges.find_ranges(tiny_header(), tiny_state())
    with pytest.raises(AMDRestoreError, match="no home folder.*XDG_CACHE_HOME"):
        stored_ranges.keep_ranges(tiny_state(), {})
    assert list(tmp_path.iterdir()) == []


def test_the_package_has_the_ranges_of_the_released_student() -> None:
    header, state = load_checkpoint(resolve_weights("x4-classical"))
    ranges = stored_ranges.find_ranges(header, state)
    convolutions = 2 * header.network["num_block"]
    assert len(ranges) == 2 * convolutions  # inputs and outputs
    assert all(low <= high for low, high in ranges.values())
    assert ranges["blocks.3.conv2:in"][0] == pytest.approx(-0.2785, abs=1e-3)  # the least value of SiLU


def test_own_weights_need_a_calibration(runtime: str, tmp_path: Path) -> None:
    weights = save_tiny(tmp_path / "own.safetensors")
    header, state = load_checkpoint(weights)
    with pytest.raises(AMDRestoreError, match="--calibration"):
        load_network(header, state, runtime, "int8")
    suffix = ".onnx" if runtime == "onnx" else ".xml"
    export(weights, tmp_path / f"own{suffix}", "int8", LOWRES)
    net, plain = load_network(header, state, runtime, "int8"), build_network(header, state)
    lq = photograph(32, 32)
    arguments = (torch.randn(1, 48, 32, 32), torch.ones(1), (lq - 0.45) / 0.25)
    with torch.no_grad():
        expected = plain(*arguments)
        error = (net(*arguments) - expected).std() / expected.std()
    assert 1e-4 < float(error) < 0.05


def test_exports_carry_the_header(runtime: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = save_tiny(tmp_path / "own.safetensors")
    header, _ = load_checkpoint(weights)
    path = tmp_path / f"own{'.onnx' if runtime == 'onnx' else '.xml'}"
    arguments = ["--model", str(weights), "-o", str(path)]
    assert main(arguments) == 0
    assert str(path) in capsys.readouterr().out
    if runtime == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        text = session.get_modelmeta().custom_metadata_map[METADATA_KEY]
    else:
        import openvino

        model = openvino.Core().read_model(path)
        text = model.get_rt_info(METADATA_KEY).astype(str)
    assert Header.from_json(text) == header
    assert main(arguments) == 2
    assert "exists" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert not [file for file in tmp_path.iterdir() if file.suffix == ".part"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dtype", "bf16"], "no bf16 on CPUs"),
        (["--calibration", "lowres"], "--calibration sets the ranges of int8"),
        (["-o", "model.pt"], "model.pt: must end in .onnx"),
        (["--model", "nothing"], "nothing: no released model has this name"),
    ],
)
def test_exports_that_are_refused(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-o", "model.onnx", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_an_export_without_a_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2 and "required: -o/--output" in capsys.readouterr().err


def test_calibration_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(AMDRestoreError, match="no colour picture"):
        calibration.read_pictures(tmp_path)
    header, state = tiny_header(), tiny_state()
    with pytest.raises(AMDRestoreError, match="no image found"):
        calibration.measure_ranges(header, state, [])


def test_ranges_are_the_extremes(tmp_path: Path) -> None:
    header, state = tiny_header(steps=(1,)), tiny_state()
    ranges = calibration.measure_ranges(header, state, [photograph(24, 24)])
    wider = calibration.measure_ranges(header, state, [photograph(24, 24), 1 - photograph(24, 24)])
    assert ranges.keys() == wider.keys() == {f"blocks.0.conv{i}:{end}" for i in (1, 2) for end in ("in", "out")}
    assert all(wider[place][0] <= low and high <= wider[place][1] for place, (low, high) in ranges.items())
    stored = json.loads(stored_ranges.keep_ranges(state, ranges, tmp_path / "own.json").read_text())
    assert stored["weights"] == stored_ranges.weights_digest(state)
