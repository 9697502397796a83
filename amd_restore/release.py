"""Turn weights exported by training into released ones: a name, a licence and where they come from in the header.

python -m amd_restore.release --weights experiments/RUN/models/net_g_latest.safetensors --name x4-classical
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from amd_restore.checkpoint import load_checkpoint, save_checkpoint
from amd_restore.errors import AMDRestoreError

TRAINING_DATA = "free photographs of datasets/free_photos.tsv, split 'train' (author and licence of each in that list)"


def release(weights: Path, name: str, out: Path, licence: str, training_data: str) -> Path:
    """Write ``out/NAME.safetensors`` (fp16) with a complete header; returns its path.

    Raises:
        AMDRestoreError: the weights cannot be read or written.
    """
    header, state = load_checkpoint(weights)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    header = dataclasses.replace(header, name=name, licence=licence, training_data=training_data, commit=commit)
    path = out / f"{name}.safetensors"
    save_checkpoint(path, state, header)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m amd_restore.release", description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="exported .safetensors of a run")
    parser.add_argument("--name", required=True, help="released name")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights", help="folder")
    parser.add_argument("--licence", default="CC-BY-SA-4.0")
    parser.add_argument("--training_data", default=TRAINING_DATA)
    args = parser.parse_args(arguments)
    try:
        path = release(args.weights, args.name, args.out, args.licence, args.training_data)
    except AMDRestoreError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{path}: {path.stat().st_size / 2**20:.1f} MiB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
