"""Command line options of ``inference.py`` and ``amd-restore``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from amd_restore import __version__
from amd_restore.apps.files.plan import EXTENSIONS
from amd_restore.apps.files.settings import Settings
from amd_restore.atomic import path_option
from amd_restore.errors import Parser

_UNITS = {"": 2**20, "k": 2**10, "m": 2**20, "g": 2**30}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of ``inference.py`` and ``amd-restore``."""
    parser = Parser(
        description="Restore and enlarge photographs by one to four diffusion steps.",
        epilog="Other commands: amd-restore export | prompts | video | ui | doctor, each with its own --help.",
    )
    _add_files(parser.add_argument_group("files"))
    add_size(parser.add_argument_group("size of the outputs").add_argument)
    add_model(parser.add_argument_group("model and sample").add_argument, automatic=True)
    add_control(control := parser.add_argument_group("control").add_argument)
    _add_extras(control)
    add_machine(machine := parser.add_argument_group("machine").add_argument)
    _add_folders(machine)
    _add_cluster(parser.add_argument_group("several machines").add_argument)
    add = parser.add_argument
    add("--json", type=path_option, metavar="FILE", help="write a report of all files: status, sizes, seconds")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def settings_of(options: argparse.Namespace) -> Settings:
    """Return the settings for each image.

    Raises:
        AMDRestoreError: options contradict each other.
    """
    values = vars(options)
    return Settings(**{name: values[name] for name in Settings.__dataclass_fields__ if name in values})


def _add_files(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("-i", "--input", type=_place, required=True, metavar="PATH", help="image, folder of images, or - for stdin")
    add(
        "-o",
        "--output",
        type=_place,
        default=Path("results"),
        metavar="PATH",
        help="folder; for one image also a file name; - for stdout (default: results)",
    )
    add("--recursive", action="store_true", help="include subfolders; the outputs keep their tree")
    present = "keep and skip existing outputs, so that the same command resumes an interrupted run"
    choice = group.add_mutually_exclusive_group()
    choice.add_argument("--resume", action="store_true", help=f"{present} (default)")
    choice.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    add(
        "--suffix",
        type=_suffix,
        default="",
        metavar="TEXT",
        help="text added to output names, e.g. _x4 for photo_x4.png",
    )
    add("--ext", choices=("auto", *EXTENSIONS), default="auto", help="format of the outputs (default: the input's)")
    add("--quality", type=number(1, 100), metavar="N", help="quality of jpg, webp and avif, 1 to 100 (default: 95)")
    add("--frames", action="store_true", help="restore animations frame by frame (default: refuse them)")
    add("--max-pixels", type=millions, metavar="MP", help="refuse inputs of more megapixels (default: 200)")


def add_size(add: Callable[..., Any]) -> None:
    """Add options for the size of the outputs; ``add`` is a parser's ``add_argument``."""
    add("-s", "--outscale", type=factor, metavar="X", help="output size / input size (default: the model's scale)")
    add("--width", type=number(1), metavar="N", help="width of the outputs in pixels; the height follows")
    add("--max-side", type=number(1), metavar="N", help="shrink outputs whose longer side exceeds this")


def add_model(add: Callable[..., Any], automatic: bool = False) -> None:
    """Add options for the weights and the random sample; ``automatic``: the model may be chosen for each image."""
    first = "x4-real (default; "
    if automatic:
        first = "auto (default; for each image the one of the next three that suits it), x4-real ("
    add(
        "--model",
        metavar="NAME",
        help=f"{first}noisy, blurred, JPEG or clean images), x4-web (good JPEGs), x4-classical (clean, "
        "sharp images), x4-real-fast or x4-classical-tiny (smaller and faster), another released name, or a "
        ".safetensors file or folder",
    )
    add(
        "--steps",
        type=number(1, 1000),
        metavar="N",
        help="diffusion steps; students are trained for 1, 2 and 4 (default: the model's)",
    )
    add(
        "--seed",
        type=number(-(2**63), 2**63 - 1),
        default=0,
        metavar="N",
        help="random seed; changes fine detail (default: %(default)s)",
    )


def add_control(add: Callable[..., Any]) -> None:
    """Add options that trade detail for faithfulness."""
    add(
        "--fidelity",
        type=fraction,
        default=0.0,
        metavar="X",
        help="from 0, most detail, to 1, most faithful (default: 0)",
    )
    add("--consistency", action="store_true", help="make the downscaled output equal the input")
    add("--color-fix", choices=("none", "wavelet", "adain"), default="none", help="take colours from the input")
    add("--tta", action="store_true", help="average over the eight flips and rotations; eight times slower")


def _add_extras(add: Callable[..., Any]) -> None:
    add(
        "--n-samples",
        type=number(1, 99),
        default=1,
        metavar="N",
        help="write N versions: NAME, NAME_sample2, ... (default: 1)",
    )
    add(
        "--uncertainty",
        action="store_true",
        help="also write NAME_uncertainty.png, the expected error",
    )
    add("--compare", action="store_true", help="also write NAME_compare.png, input and output side by side")


def add_machine(add: Callable[..., Any]) -> None:
    """Add options for processors and memory."""
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, xpu (default: auto)")
    add(
        "--dtype",
        choices=("auto", "fp32", "bf16", "int8"),
        default="auto",
        help="arithmetic; auto: bf16 if the hardware computes it, else fp32 (default: auto)",
    )
    add(
        "--backend",
        choices=("auto", "torch", "onnx", "openvino"),
        help="runtime of the network (default: torch where it is installed, else the fastest)",
    )
    add("--threads", type=number(1), metavar="N", help="processor threads (default: the backend's choice)")
    add(
        "--max-memory",
        type=size,
        metavar="SIZE",
        help="memory limit, such as 800M or 2G (default: half of the free memory)",
    )
    add("--tile", type=number(0), metavar="N", help="tile side in input pixels; 0: no tiling (default: automatic)")
    add(
        "--halo",
        type=number(0),
        metavar="N",
        help="margin around each tile in input pixels (default: from the network)",
    )


def _add_folders(add: Callable[..., Any]) -> None:
    add(
        "--workers",
        type=number(1),
        default=2,
        metavar="N",
        help="images read and written in the background (default: 2)",
    )
    add("--batch", type=number(1), default=1, metavar="N", help="images of equal size restored together (default: 1)")


def _add_cluster(add: Callable[..., Any]) -> None:
    add("--engine", choices=("local", "ray"), default="local", help="ray: restore on a Ray cluster; also accepts URLs")
    add("--address", metavar="ADDR", help="cluster: HOST:PORT, auto, or local to start one here (default: local)")
    add(
        "--ray-workers",
        type=number(1),
        metavar="N",
        help="number of worker processes (default: one per GPU, or per 4 cores)",
    )
    add("--retries", type=number(0), metavar="N", help="retries after a lost worker or a storage error (default: 2)")


def number(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """Option type: a whole number from ``lowest`` to ``highest``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest or (highest is not None and value > highest):
            bounds = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
            raise argparse.ArgumentTypeError(f"must be a whole number {bounds}, not {text!r}")
        return value

    return parse


def factor(text: str) -> float:
    """Option type: a positive number up to 64."""
    value = _float(text)
    if not 0 < value <= 64:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and at most 64, not {text!r}")
    return value


def fraction(text: str) -> float:
    """Option type: a number from 0 to 1."""
    value = _float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {text!r}")
    return value


def _place(text: str) -> Path | str:
    """Option type: a path, or text for a URL other than ``file:``."""
    if text.startswith("file://"):
        return path_option(unquote(text.removeprefix("file://")))
    return text if "://" in text else path_option(text)


def _suffix(text: str) -> str:
    if any(character in '/\\:*?"<>|' or not character.isprintable() for character in text):
        raise argparse.ArgumentTypeError(f"must be fit for a file name, not {text!r}")
    return text


def millions(text: str) -> int:
    """Option type: a positive number of millions (pixels or bytes)."""
    value = _float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
    return max(1, round(value * 1e6))


def size(text: str) -> int:
    """Option type: bytes from ``2G``, ``800M``, ``800MB``; a bare number is in mebibytes."""
    plain = text.strip().lower().removesuffix("b").removesuffix("i")
    unit = plain[-1:] if plain[-1:].isalpha() else ""
    value = _float(plain.removesuffix(unit) if unit else plain)
    if unit not in _UNITS or not 0 < value < 1e12:
        raise argparse.ArgumentTypeError(f"must be a size such as 800M or 2G, not {text!r}")
    return round(value * _UNITS[unit])


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")  # NaN is in no range.
