"""Server of the built page in ``web/``, which restores in the visitor's browser. Needs only the standard library."""

from __future__ import annotations

import functools
import http
import socket
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from amd_restore.errors import AMDRestoreError

BUILT_PAGE = Path("web/dist")  # seen from a clone of the repository
_HEADERS = {
    # Both together allow threads in WebAssembly.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # The page has a longer policy, for servers that add none; it does not hold for its worker.
    "Content-Security-Policy": "connect-src 'self'; frame-ancestors 'none'",
}
_FOREVER = "public, max-age=31536000, immutable"


def built_page(folder: Path) -> Path:
    """Return ``folder`` if it contains the built page; its sources have no ``sw.js``.

    Raises:
        AMDRestoreError: it does not; says what to run.
    """
    if not all((folder / name).is_file() for name in ("index.html", "sw.js")):
        raise AMDRestoreError(
            f"{folder}: no built page; (cd web && npm ci && npm run build) in a clone of the repository makes one in "
            f"{BUILT_PAGE}; name another folder with --static FOLDER"
        )
    return folder


def page_server(folder: Path, listener: socket.socket, debug: bool = False) -> ThreadingHTTPServer:
    """Return the server of a folder; its ``serve_forever`` serves.

    Args:
        folder: of the built page.
        listener: listening socket; closed with the server.
        debug: log requests.
    """
    handler = functools.partial(_Handler, directory=str(folder), is_logged=debug)
    server = _Server(listener.getsockname()[:2], handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    return server


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        # Browsers drop connections, which is no error of the server.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    """Files of one folder, without listings."""

    # Own types, because those of the system differ between machines, and browsers refuse scripts of another type.
    extensions_map = {
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".css": "text/css",
        ".wasm": "application/wasm",
        ".png": "image/png",
        "": "application/octet-stream",
    }

    def __init__(self, *arguments: Any, is_logged: bool, **options: Any) -> None:
        self._is_logged = is_logged
        super().__init__(*arguments, **options)

    def send_response(self, code: int, message: str | None = None) -> None:
        self._is_found = code in (http.HTTPStatus.OK, http.HTTPStatus.NOT_MODIFIED)
        super().send_response(code, message)

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        # Names in assets/ contain a hash of the content; other files are checked at every visit.
        is_kept = self._is_found and self.path.startswith("/assets/")
        self.send_header("Cache-Control", _FOREVER if is_kept else "no-cache")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(http.HTTPStatus.NOT_FOUND)

    def log_message(self, *arguments: Any) -> None:
        if self._is_logged:
            super().log_message(*arguments)
