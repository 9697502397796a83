"""Check of requests: only those of the page itself, of limited size.

Every web site that the user's browser visits can reach a server on the loopback interface. Such a site can send
requests (with its name in ``Origin``) and, by pointing its name at 127.0.0.1, read responses (with its name in
``Host``). Both are refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Vue compiles templates in the browser, hence unsafe-eval; nothing comes from elsewhere; framing is not allowed.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Guard:
    """ASGI middleware.

    Args:
        app: the application.
        max_body: limit on the bytes of a request.
        names: allowed host names, besides ``localhost`` and numeric addresses.
    """

    def __init__(self, app: ASGIApp, max_body: int, names: Collection[str] = ()) -> None:
        self.app, self.max_body, self.names = app, max_body, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(headers)
        if refusal is None:
            await self.app(scope, self._counted(receive), _with_headers(send))
        elif scope["type"] == "http":
            await refusal(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _refusal(self, headers: Headers) -> PlainTextResponse | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_own_host(host, self.names):
            return PlainTextResponse("this name does not belong to the page; use the address that was printed", 400)
        if origin is not None and origin.partition("://")[2] != host:
            return PlainTextResponse("requests of other sites are refused", 403)
        if int(headers.get("content-length", 0)) > self.max_body:
            return PlainTextResponse(self._too_large(), 413)
        return None

    def _counted(self, receive: Receive) -> Receive:
        """For bodies that do not say how long they are."""
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > self.max_body:
                    raise HTTPException(413, self._too_large())
            return message

        return counted

    def _too_large(self) -> str:
        return f"more than {self.max_body} bytes; see --max-upload-mb"


def is_own_host(host: str, names: Collection[str] = ()) -> bool:
    """Return whether a ``Host`` header is an address, ``localhost`` or one of ``names``."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name in {own.lower() for own in names}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(_HEADERS)
        await send(message)

    return send_with_headers
