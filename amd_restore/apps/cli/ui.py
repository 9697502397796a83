"""``amd-restore ui``: serve a page from this computer to restore, compare and download images in the browser.

No data leaves the computer, and the page loads nothing from elsewhere. With ``--static`` the browser restores, too.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import logging
import socket
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from amd_restore.apps.cli.parser import millions, number
from amd_restore.apps.ui.binding import bind
from amd_restore.apps.ui.static import BUILT_PAGE, built_page, page_server
from amd_restore.atomic import path_option
from amd_restore.errors import AMDRestoreError, Parser, run_command, say


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of ``amd-restore ui``."""
    parser = Parser(prog="amd-restore ui", description=__doc__)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="interface to listen on (default: %(default)s, this computer only)")
    add("--port", type=number(0, 65535), default=7860, help="port; 0 chooses a free one (default: %(default)s)")
    add(
        "--share-on-network",
        action="store_true",
        help="allow a --host that others can reach, without password or encryption",
    )
    add("--open", action="store_true", help="open the page in the browser")
    add(
        "--static",
        nargs="?",
        const=BUILT_PAGE,
        type=path_option,
        metavar="FOLDER",
        help=f"serve the page that restores in the browser itself (default folder: {BUILT_PAGE}, built by npm)",
    )
    add(
        "--model",
        metavar="NAME",
        help="first model of the page: auto, released name, .safetensors file or folder (default: auto)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, xpu (default: %(default)s)")
    add("--threads", type=number(1, 1024), metavar="N", help="processor threads (default: the backend's choice)")
    add(
        "--max-upload-mb",
        type=millions,
        default="20",
        metavar="MB",
        help="maximum size of a file (default: %(default)s)",
    )
    add(
        "--max-pixels",
        type=millions,
        default="4",
        metavar="MP",
        help="refuse inputs of more megapixels (default: %(default)s)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; return the exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")

    def until_interrupted() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            serve(options)

    return run_command(until_interrupted, options.debug, "amd-restore ui")


def serve(options: argparse.Namespace) -> None:
    """Serve one of the two pages.

    Raises:
        AMDRestoreError: missing package, no such model or device, a page that is not built, an interface that does not
            exist or that others can reach, or a port in use.
    """
    shared = not is_loopback(options.host)
    if shared and not options.share_on_network:
        raise AMDRestoreError(
            f"--host {options.host} lets others on the network use this page, without a password; "
            "add --share-on-network if that is meant"
        )
    if options.static is None:
        _serve_model(options, shared)
    else:
        _serve_static(options, shared)


def _serve_static(options: argparse.Namespace, shared: bool) -> None:
    """Serve the page that restores in the browser."""
    unused = [f"--{name}" for name in ("model", "threads") if getattr(options, name) is not None]
    if unused:
        raise AMDRestoreError(f"with --static the browser restores, and {unused[0]} has no meaning; leave it out")
    folder = built_page(options.static)
    with bind(options.host, options.port) as listener:
        _announce("the page", listener, options, shared)
        page_server(folder, listener, options.debug).serve_forever()


def _serve_model(options: argparse.Namespace, shared: bool) -> None:
    """Load the model and serve the page that restores on this computer."""
    try:
        from amd_restore.apps.ui.server import create_app, run
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "amd_restore":
            raise
        raise AMDRestoreError(f"the page needs a package ({error.name}): pip install 'amd-restore[ui]'") from error
    from amd_restore.apps.ui.models import Models
    from amd_restore.apps.ui.uploads import UploadRestorer
    from amd_restore.pipeline import AUTO, RestorationPipeline, load_pipeline

    def load(name_or_path: str | Path) -> RestorationPipeline:
        return load_pipeline(name_or_path, options.device, threads=options.threads)

    models = Models(options.model or AUTO, load)
    restorer = UploadRestorer(models, options.max_pixels)
    names = (options.host, socket.gethostname(), f"{socket.gethostname()}.local") if shared else ()
    app = create_app(restorer, options.max_upload_mb, names)
    with bind(options.host, options.port) as listener:
        _announce(models.first, listener, options, shared)
        run(app, listener, options.debug)


def _announce(what: str, listener: socket.socket, options: argparse.Namespace, shared: bool) -> None:
    """Say where ``what`` is, and open it if requested."""
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{host}:{listener.getsockname()[1]}/"
    say(f"{what} at {address} (Ctrl-C ends it)")
    if shared:
        say("everyone on the network who knows this address can use it")
    if options.open:
        webbrowser.open(address)


def is_loopback(host: str) -> bool:
    """Return whether only this computer can reach a server on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
