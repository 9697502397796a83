"""Web server of the page."""

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

_FORM_OVERHEAD = 64 * 1024  # bytes of a form besides its file
_RECONNECT = 60.0  # seconds that a page without connection keeps its image
_LONGEST_MESSAGE = 1_000_000  # bytes through the WebSocket, which carries clicks and typed numbers


def create_app(restorer: UploadRestorer, max_upload: int, names: Collection[str] = ()) -> FastAPI:
    """Create the ASGI application; only once per process, because NiceGUI's pages are global.

    Args:
        restorer: restorer of uploads; closed with the application.
        max_upload: limit on the bytes of an image file.
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
        dark=None,  # the browser's preference
        language="en-US",
        reconnect_timeout=_RECONNECT,
        show_welcome_message=False,
    )
    return app


def run(app: FastAPI, listener: socket.socket, debug: bool = False) -> None:
    """Serve until Ctrl-C or a signal to end."""
    # NiceGUI inspects every object to find its server, which fails for one of PyTorch's.
    warnings.filterwarnings("ignore", ".*torch.distributed.reduce_op", FutureWarning)
    config = uvicorn.Config(
        app,
        log_level="info" if debug else "warning",
        access_log=debug,
        ws_max_size=_LONGEST_MESSAGE,
        timeout_graceful_shutdown=3,
    )
    uvicorn.Server(config).run(sockets=[listener])
