"""``amd-restore prompts``: compute text embeddings for a latent model once and save them in a small file.

Training and restoring then need no text encoder. Without a file, the input of a latent network is zeros.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from amd_restore.atomic import path_option
from amd_restore.errors import AMDRestoreError, Parser, run_command, say


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of ``amd-restore prompts``."""
    parser = Parser(prog="amd-restore prompts", description=__doc__)
    add = parser.add_argument
    add("--model", required=True, metavar="DIR", help="folder or hub id of a Stable Diffusion 1, 2, XL or 3 model")
    add("--revision", metavar="NAME", help="branch, tag or commit on the hub")
    add("--prompt", default="", metavar="TEXT", help="positive prompt for all images (default: empty)")
    add("--negative", default="", metavar="TEXT", help="negative prompt for guidance (default: empty)")
    add("-o", "--output", type=path_option, required=True, metavar="FILE", help=".safetensors file to write")
    add("--overwrite", action="store_true", help="replace an existing file")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    options = build_parser().parse_args(arguments)

    def command() -> None:
        shapes = prepare(
            options.model,
            options.prompt,
            options.negative,
            options.output,
            revision=options.revision,
            overwrite=options.overwrite,
        )
        say(f"{options.output}: {shapes}")

    return run_command(command, options.debug, "amd-restore prompts")


def prepare(
    model: str, prompt: str, negative: str, output: Path, *, revision: str | None = None, overwrite: bool = False
) -> str:
    """Compute and write embeddings; arguments as on the command line.

    Returns:
        A message about the written file.

    Raises:
        AMDRestoreError: no such model, a missing package, or a file that exists or cannot be written.
    """
    if output.suffix != ".safetensors":
        raise AMDRestoreError(f"{output}: must end in .safetensors; rename -o")
    if output.exists() and not overwrite:
        raise AMDRestoreError(f"{output}: exists; name another file or add --overwrite")
    from amd_restore.archs.latent.prompts import compute_prompts, write_prompts

    values = compute_prompts(model, prompt, negative, revision)
    write_prompts(output, values, model=model, prompt=prompt, negative=negative)
    return ", ".join(f"{name} {'x'.join(map(str, value.shape))}" for name, value in values.items())
