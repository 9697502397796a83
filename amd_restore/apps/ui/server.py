"""The web server behind the page."""

from __future__ import annotations

import socket
import warnings
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from nicegui import ui

from amd_restore.apps.ui.guard import Guard
from amd_restore.apps.ui.page import Page
from amd_restore.apps.ui.served import PATH, ServedFiles
from amd_restore.apps.ui.uploads import UploadRestorer
from amd_restore.errors import AMDRestoreError

_FORM_OVERHEAD = 64 * 1024  # what a form adds to its file
_RECONNECT = 60.0  # seconds in which a page that lost its connection keeps its picture
_LONGEST_MESSAGE = 1_000_000  # bytes through the WebSocket, which carries clicks and typed numbers


def create_app(restorer: UploadRestorer, max_upload: int, names: Collection[str] = ()) -> FastAPI:
    """The page as an ASGI application; once per process, for NiceGUI keeps its pages in one place.

    Args:
        restorer: restores, and is closed with the application.
        max_upload: bytes of an image file.
        names: see :class:`Guard`.
    """
    served = ServedFiles()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        restorer.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.add_route(f"{PATH}{{token}}", served.answer)
    app.add_middleware(Guard, max_body=max_upload + _FORM_OVERHEAD, names=names)

    @ui.page("/")
    def page() -> None:
        Page(restorer, served, max_upload)

    ui.run_with(
        app,
        title="AMD Restore",
        dark=None,  # as the browser prefers
        language="en-US",
        reconnect_timeout=_RECONNECT,
        show_welcome_message=False,
    )
    return app


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens, so that pages can be asked for from now on.

    Args:
        host: address or name of an interface of this machine.
        port: 0 takes a free one.

    Raises:
        AMDRestoreError: no such interface, or a port that is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        raise AMDRestoreError(f"cannot listen on {host}, port {port}: {error.strerror}; try --port 0") from error
    return listener


def run(app: FastAPI, listener: socket.socket, debug: bool = False) -> None:
    """Serve until Ctrl-C or a signal to end."""
    # NiceGUI looks at every object there is to find its server, and PyTorch has one that does not like that.
    warnings.filterwarnings("ignore", ".*torch.distributed.reduce_op", FutureWarning)
    config = uvicorn.Config(
        app,
        log_level="info" if debug else "warning",
        access_log=debug,
        ws_max_size=_LONGEST_MESSAGE,
        timeout_graceful_shutdown=3,
    )
    uvicorn.Server(config).run(sockets=[listener])
