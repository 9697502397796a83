"""``amd-restore ui``: a page in the browser, served from this computer: drop an image, compare, download.

Nothing leaves the computer, and nothing is fetched from elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import logging
import socket
import sys
import webbrowser
from collections.abc import Callable, Sequence

from amd_restore.apps.cli.console import Console
from amd_restore.apps.cli.run_command import run_command
from amd_restore.errors import AMDRestoreError


def build_parser() -> argparse.ArgumentParser:
    """Parser of ``amd-restore ui``."""
    parser = argparse.ArgumentParser(prog="amd-restore ui", description=__doc__)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="interface to listen on (default: %(default)s, this computer only)")
    add("--port", type=_whole(0, 65535), default=7860, help="0 takes a free one (default: %(default)s)")
    add(
        "--share-on-network",
        action="store_true",
        help="allow a --host that others can reach; there is neither password nor encryption",
    )
    add("--open", action="store_true", help="open the page in the browser")
    add("--model", metavar="NAME", help="released name, .safetensors file or folder (default: x4-real)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, xpu (default: %(default)s)")
    add("--threads", type=_whole(1, 1024), metavar="N", help="processor threads (default: torch's choice)")
    add("--max-upload-mb", type=_number, default=20.0, metavar="MB", help="of a file (default: %(default)g)")
    add(
        "--max-pixels",
        type=_number,
        default=4.0,
        metavar="MP",
        help="refuse inputs of more megapixels (default: %(default)g)",
    )
    add("--debug", action="store_true", help="show tracebacks and requests")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C, the ordinary end; returns the exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")

    def until_interrupted() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            serve(options)

    return run_command(until_interrupted, Console(options.debug), "amd-restore ui")


def serve(options: argparse.Namespace) -> None:
    """Load the model and show the page.

    Raises:
        AMDRestoreError: the package of the page is missing, no such model or device, an interface that is not
            there or that others can reach, or a port that is taken.
    """
    shared = not is_loopback(options.host)
    if shared and not options.share_on_network:
        raise AMDRestoreError(
            f"--host {options.host} lets others on the network use this page, without a password; "
            "add --share-on-network if that is meant"
        )
    try:
        from amd_restore.apps.ui.server import bind, create_app, run
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "amd_restore":
            raise
        raise AMDRestoreError(f"the page needs a package ({error.name}): pip install 'amd-restore[ui]'") from error
    import torch

    from amd_restore.apps.ui.work import Workshop
    from amd_restore.checkpoint import DEFAULT_MODEL
    from amd_restore.pipeline import RestorationPipeline

    if options.threads:
        torch.set_num_threads(options.threads)
    pipeline = RestorationPipeline.from_pretrained(options.model or DEFAULT_MODEL, options.device)
    workshop = Workshop(pipeline, max(1, round(options.max_pixels * 1e6)))
    names = (options.host, socket.gethostname(), f"{socket.gethostname()}.local") if shared else ()
    app = create_app(workshop, max(1, round(options.max_upload_mb * 1e6)), names)
    with bind(options.host, options.port) as listener:
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{host}:{listener.getsockname()[1]}/"
        sys.stdout.write(f"{pipeline.header.name} at {address} (Ctrl-C ends it)\n")
        if shared:
            sys.stdout.write("everyone on the network who knows this address can use it\n")
        sys.stdout.flush()
        if options.open:
            webbrowser.open(address)
        run(app, listener, options.debug)


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach what listens on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _number(text: str) -> float:
    """Type of an option: a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be a positive number below a million, not {text!r}")
    return value


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    """Type of an option: a whole number within limits."""

    def parse(text: str) -> int:
        value = int(text) if text.isdecimal() else -1
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"must be a whole number from {lowest} to {highest}, not {text!r}")
        return value

    return parse
