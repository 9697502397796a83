"""``amd-restore export``: write the network of a model for ONNX Runtime or OpenVINO.

The file contains one network call, ``raw = network(x_t, t, cond)``, for any batch and size, with the model's header
(sampling, codec, licence) in its metadata under ``amd_restore``. ``--backend onnx`` and ``--backend openvino`` need no
export: they build their graphs themselves.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from amd_restore.atomic import path_option
from amd_restore.errors import AMDRestoreError, Parser, run_command, say

RUNTIMES = {".onnx": "onnx", ".xml": "openvino"}  # by the suffix of the file


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of ``amd-restore export``."""
    parser = Parser(prog="amd-restore export", description=__doc__)
    add = parser.add_argument
    add("--model", default="x4-real", help="released name, .safetensors file or folder (default: %(default)s)")
    add(
        "-o",
        "--output",
        type=path_option,
        required=True,
        metavar="FILE",
        help=".onnx file for ONNX Runtime, or .xml file for OpenVINO, which has a .bin file next to it",
    )
    add(
        "--dtype",
        choices=("fp32", "bf16", "int8"),
        default="fp32",
        help="arithmetic and storage; bf16 for OpenVINO only (default: %(default)s)",
    )
    add(
        "--calibration",
        type=path_option,
        metavar="FOLDER",
        help="folder of photographs that set the ranges of int8; released models include theirs",
    )
    add("--overwrite", action="store_true", help="replace existing files")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    options = build_parser().parse_args(arguments)

    def command() -> None:
        path = options.output
        export(options.model, path, options.dtype, options.calibration, overwrite=options.overwrite)
        size = sum(file.stat().st_size for file in files_of(path))
        say(f"{path}: {size / 2**20:.1f} MiB")

    return run_command(command, options.debug, "amd-restore export")


def files_of(path: Path) -> list[Path]:
    """Return the files of an export: the ``.onnx``, or the ``.xml`` and its ``.bin``."""
    return [path.with_suffix(".bin"), path] if path.suffix == ".xml" else [path]


def export(
    model: str | Path,
    output: Path,
    dtype: str = "fp32",
    calibration: Path | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a model for another runtime; the files are complete or absent.

    Args:
        model: released name, weights file or folder with one.
        output: its suffix names the runtime, see :data:`RUNTIMES`.
        dtype: ``fp32``; ``bf16`` (OpenVINO only: weights stored in 16 bits); or ``int8`` (all but the first and the
            last convolution; an ``.onnx`` has the form that ONNX Runtime fuses). For every ``dtype`` OpenVINO computes
            floats in bfloat16 if the processor can, unless INFERENCE_PRECISION_HINT is f32 at loading.
        calibration: folder of photographs; the measured ranges are also cached for ``--backend ... --dtype int8``.
        overwrite: replace existing files.

    Raises:
        AMDRestoreError: no such model, a missing package, an impossible combination, an int8 export of weights
            that were never calibrated, or a file that cannot be written.
    """
    to = RUNTIMES.get(output.suffix)
    if to is None:
        raise AMDRestoreError(f"{output}: must end in .onnx or, for OpenVINO, .xml; rename it")
    if to == "onnx" and dtype == "bf16":
        raise AMDRestoreError("ONNX Runtime computes no bf16 on CPUs; use --dtype fp32 or int8, or name an .xml file")
    if calibration is not None and dtype != "int8":
        raise AMDRestoreError(f"--calibration sets the ranges of int8; with --dtype {dtype} it has no meaning")
    from amd_restore.atomic import write_atomically
    from amd_restore.weights import load_arrays, resolve_weights

    header, weights = load_arrays(resolve_weights(model))
    existing = [file for file in files_of(output) if file.exists()]
    if existing and not overwrite:
        raise AMDRestoreError(f"{existing[0]}: exists; name another file or add --overwrite")

    from amd_restore.backends import graph_bytes

    if calibration is not None:
        from amd_restore.backends.calibration import keep_ranges, measure_ranges, read_pictures
        from amd_restore.weights import load_checkpoint

        state_dict = load_checkpoint(resolve_weights(model))[1]
        keep_ranges(weights, measure_ranges(header, state_dict, read_pictures(calibration)))
    data = graph_bytes(header, weights, "int8" if dtype == "int8" else "fp32", to)
    if to == "onnx":
        write_atomically(output, data)
    else:
        values, description = _openvino_files(data, header.to_json(), dtype)
        write_atomically(output.with_suffix(".bin"), values)
        write_atomically(output, description)


def _openvino_files(data: bytes, header: str, dtype: str) -> tuple[bytes, bytes]:
    """Return OpenVINO's ``.bin`` and ``.xml`` for an ONNX file's bytes."""
    try:
        import openvino
    except ImportError as error:
        raise AMDRestoreError("an .xml file needs the package openvino: pip install 'amd-restore[openvino]'") from error
    from amd_restore.weights import METADATA_KEY

    model = openvino.Core().read_model(data)
    model.set_rt_info(header, METADATA_KEY)
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, Path(folder) / "model.xml", compress_to_fp16=dtype == "bf16")
        return (Path(folder) / "model.bin").read_bytes(), (Path(folder) / "model.xml").read_bytes()
