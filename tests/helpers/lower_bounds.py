"""Tests against the oldest versions that pyproject.toml admits, all of them at once, in an environment of its own.

    python tests/helpers/lower_bounds.py FOLDER [--extras train,onnx] tests/inference/test_pipeline.py tests/training

``FOLDER`` is made where it is missing and used again where it exists. Each bound ``>=X`` becomes ``==X.*``, the series
that begins with it, since some packages never released X itself. All else goes to pytest. Run it before moving a bound.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

from places import REPOSITORY


def pins(requirements: list[str]) -> list[str]:
    """Each requirement held to its lower bound, those without one left out."""
    bounds = (re.match(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)", requirement) for requirement in requirements)
    return [f"{bound[1]}=={bound[2]}.*" for bound in bounds if bound]


def requirements_of(extra: str, optional: dict[str, list[str]]) -> list[str]:
    """What an extra brings, with the extras that it names itself."""
    lines: list[str] = []
    for line in optional[extra]:
        named = re.fullmatch(r"amd-restore\[(.*)\]", line)
        inner = named[1].split(",") if named else []
        lines += [one for name in inner for one in requirements_of(name, optional)] or [line]
    return lines


def prepare(folder: Path, extras: list[str]) -> Path:
    """The interpreter of an environment in which the project and pytest are installed, everything at its bound.

    Raises:
        subprocess.CalledProcessError: pip found no such set of versions; it has said why.
    """
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    venv.create(folder, with_pip=True)
    constraints = folder / "lower_bounds.txt"
    wanted = project["dependencies"] + [line for extra in extras for line in requirements_of(extra, optional)]
    constraints.write_text("\n".join(dict.fromkeys(pins(wanted))) + "\n", encoding="utf-8")
    python = folder / "bin" / "python"
    target = f"{REPOSITORY}[{','.join(extras)}]" if extras else str(REPOSITORY)
    options = ["--find-links", str(REPOSITORY / "third_party"), "-c", str(constraints)]
    subprocess.run([str(python), "-m", "pip", "install", *options, target, "pytest"], check=True)
    return python


def main(arguments: list[str] | None = None) -> int:
    """Install, then run pytest; the exit status is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--extras", default="train", help="comma-separated; empty for inference without torch")
    options, rest = parser.parse_known_args(arguments)
    python = prepare(options.folder, [extra for extra in options.extras.split(",") if extra])
    return subprocess.run([python, "-m", "pytest", *rest], cwd=REPOSITORY).returncode


if __name__ == "__main__":
    sys.exit(main())
