"""Write what the page needs from the Python package: graphs, their headers, and expected results for ``npm test``.

``models/NAME.onnx`` is the graph of ``amd-restore export`` with its weights stored in 16 bits, which is what the
released files contain; the graph casts them back, so its arithmetic and its results stay those of float32. Needs the
extras ``torch`` and ``onnx``.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # The working tree, even where another copy is installed.

from amd_restore.errors import AMDRestoreError, imports_of, run_command, say  # noqa: E402

with imports_of("torch"):
    import torch

    from amd_restore.archs.base import RestorationNetwork
    from amd_restore.atomic import write_atomically
    from amd_restore.backends import graph_bytes
    from amd_restore.diffusion import field_noise
    from amd_restore.image_io import read_image
    from amd_restore.inference.tiling import blend_weights, plan_axis
    from amd_restore.inference.window import DEFAULT_HALO
    from amd_restore.pipeline import RestorationPipeline
    from amd_restore.weights import Header, build_network, load_checkpoint, resolve_weights

if TYPE_CHECKING:
    import onnx

MODELS = ("x4-classical-tiny", "x4-real")  # the first is loaded with the page
_CHECK_SIDE, _CHECKED = 32, 64  # size of the input by which the page checks a device, and compared predictions
_SMALLEST = 64  # numbers; what is smaller stays as it is
_PICTURE = HERE.parent / "lowres" / "kingfisher.png"
_WINDOWS = (
    (0, 48, 0, 0, 2, 40, 0),
    (3, 48, -40, -7, 44, 9, 0),
    (2**31 - 1, 3, 5, 70, 1, 3, 1),
    (-1, 5, 31, 31, 2, 2, 3),
)
_RESTORATIONS: tuple[dict[str, Any], ...] = (
    {"model": "x4-classical-tiny", "size": (24, 31), "steps": 1, "seed": 0, "fidelity": 0.0, "tile": 0},
    {"model": "x4-classical-tiny", "size": (50, 60), "steps": 2, "seed": 7, "fidelity": 0.4, "tile": 24},
    {"model": "x4-real", "size": (20, 90), "steps": 1, "seed": 5, "fidelity": 0.0, "tile": 30},
    {"model": "x4-real", "size": (5, 20), "steps": 4, "seed": 1, "fidelity": 0.0, "tile": 0},
    {"model": "x4-real", "size": (20, 20), "steps": 1, "seed": 2, "fidelity": 1.0, "tile": 0, "gray": True},
    {"model": "x4-classical-tiny", "size": (37, 26), "steps": 1, "seed": 3, "fidelity": 0.0, "tile": 15, "alpha": True},
)
_AXES = ((50, 24, 16, 8), (61, 20, 3, 0), (9, 9, 4, 2))  # length, tile, halo, blend


def main() -> int:
    """Write all files; return the exit code."""
    return run_command(write_all, False, "make_models.py")


def write_all() -> None:
    """Write graphs, headers and expected results.

    Raises:
        AMDRestoreError: a model that the page does not compute, or the package ``onnx`` is missing.
    """
    headers = {}
    names = list(MODELS)
    for name in names:  # grows by the networks of the mean
        header, state_dict = load_checkpoint(resolve_weights(name))
        if header.mean and header.mean not in names:
            names.append(header.mean)
        net = build_network(header, state_dict).eval()
        data = half_stored(graph_bytes(header, state_dict, "fp32", "onnx"))
        measured = {"reach": net.radius, "bytes": len(data), "check": check_values(header, net)}
        headers[name] = page_header(header) | measured
        write_atomically(HERE / "models" / f"{name}.onnx", data)
        say(f"models/{name}.onnx: {len(data) / 2**20:.1f} MiB")
    # The halo counts cells, which are input pixels here: page_header refuses every other codec.
    write_json("models/headers.json", {"halo": DEFAULT_HALO, "models": headers})
    write_json("test/expected.json", expected_results())


def page_header(header: Header) -> dict[str, Any]:
    """Return the part of a header that the page needs.

    Raises:
        AMDRestoreError: the model is restored in a way that ``src/restore.ts`` does not have.
    """
    kinds = {
        "codec": (header.codec.get("type"), "residual"),
        "codec.patch": (header.codec.get("patch"), header.scale),
        "process": (header.process.get("type"), "rectified_flow"),
        "prediction_type": (header.prediction_type, "v"),
        "start": (header.start, "noise"),
    }
    for key, (found, known) in kinds.items():
        if found != known:
            raise AMDRestoreError(f"{header.name}: the page has only {key} {known}, not {found}; extend src/restore.ts")
    return {
        "scale": header.scale,
        "std": header.codec["std"],
        "steps": header.steps,
        "defaultSteps": header.default_steps,
        "sampler": header.sampler,
        "timeShift": header.time_shift,
        "mean": header.mean,
    }


@torch.inference_mode()
def check_values(header: Header, net: RestorationNetwork) -> list[float]:
    """Return the first numbers that the network predicts at t = 1 for noise as state and as condition."""
    state, cond = (
        field_noise(seed, channels, 0, 0, _CHECK_SIDE, _CHECK_SIDE)
        for seed, channels in enumerate((3 * header.scale**2, 3))
    )
    raw = net(state, torch.ones(1), cond)
    return [round(float(value), 5) for value in raw.flatten()[:_CHECKED]]


def half_stored(data: bytes) -> bytes:
    """Return the ONNX model with those of its numbers in 16 bits for which nothing is lost, and casts behind them."""
    import onnx

    model = onnx.load_from_string(data)
    casts: list[onnx.NodeProto] = []
    for tensor in model.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        half = value.astype(np.float16) if value.dtype == np.float32 and value.size >= _SMALLEST else value
        if half is value or not np.array_equal(half.astype(np.float32), value):
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def expected_results() -> dict[str, Any]:
    """Return windows of noise, tiles along an axis, and pictures restored by torch on the CPU."""
    fields = []
    for window in _WINDOWS:
        seed, channels, top, left, height, width, step = window
        noise = field_noise(seed, channels, top, left, height, width, step)
        fields.append({"window": window, "values": [round(float(x), 7) for x in noise.flatten()]})
    pipelines = {name: RestorationPipeline.from_pretrained(name, "cpu", "fp32", "torch") for name in MODELS}
    restorations = []
    for case in _RESTORATIONS:
        image = picture(case)
        gray = image[..., :1] if case.get("gray") else image
        restored = pipelines[case["model"]].restore_image(
            gray, num_steps=case["steps"], seed=case["seed"], fidelity=case["fidelity"], tile=case["tile"]
        )
        restorations.append(case | {"input": encoded(image), "output": encoded(restored)})
    axes = []
    for length, tile, halo, blend in _AXES:
        spans = plan_axis(length, tile, halo)
        weights = [values.tolist() for values in blend_weights(spans, blend, 2)]
        edges = [(span.start, span.stop, span.outer_start, span.outer_stop) for span in spans]
        axes.append({"axis": (length, tile, halo, blend), "edges": edges, "weights": weights})
    return {"fields": fields, "axes": axes, "restorations": restorations}


def picture(case: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return the input of a case: (H, W, 3), (H, W, 4) with alpha, or gray (H, W, 3)."""
    height, width = case["size"]
    image = read_image(_PICTURE).pixels[40 : 40 + height, 60 : 60 + width]
    if case.get("gray"):
        return np.repeat(image[..., 1:2], 3, axis=2)
    if not case.get("alpha"):
        return image
    y, x = np.mgrid[0:height, 0:width]
    alpha = np.clip(16 * (np.hypot(y - height / 2, x - width / 2) - 4), 0, 255).astype(np.uint8)  # a hole
    return np.dstack([np.where(alpha[..., None] > 0, image, 0), alpha])


def encoded(image: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return (H, W, C) as JSON can hold it."""
    return {"shape": image.shape, "bytes": base64.b64encode(np.ascontiguousarray(image).tobytes()).decode()}


def write_json(name: str, value: Any) -> None:
    """Write a file of this folder."""
    write_atomically(HERE / name, json.dumps(value).encode())


if __name__ == "__main__":
    sys.exit(main())
