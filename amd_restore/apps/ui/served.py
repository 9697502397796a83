"""Files of a page, in memory, under addresses that cannot be guessed."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

PATH = "/pictures/"
_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".tiff": "image/tiff",
    ".bmp": "image/bmp",
    ".avif": "image/avif",
    ".heic": "image/heic",
}


@dataclass(frozen=True)
class ServedFile:
    """Content of a file and, for downloads, its name."""

    data: bytes
    name: str | None = None


class ServedFiles:
    """Store of files until they are removed."""

    def __init__(self) -> None:
        self._items: dict[str, ServedFile] = {}

    def __len__(self) -> int:
        return len(self._items)

    def add(self, data: bytes, name: str | None = None) -> str:
        """Return an address for ``data``: a PNG to show, or with ``name`` a file to download."""
        token = secrets.token_urlsafe(24)
        self._items[token] = ServedFile(data, name)
        return PATH + token

    def remove(self, address: str | None) -> None:
        """Remove the file at ``address``, if any."""
        if address:
            self._items.pop(address.removeprefix(PATH), None)

    async def answer(self, request: Request) -> Response:
        """Return the file for ``request``."""
        item = self._items.get(request.path_params["token"])
        if item is None:
            return PlainTextResponse("this picture is gone; restore it again", 404)
        suffix = PurePosixPath(item.name).suffix if item.name else ".png"
        headers = {"Cache-Control": "no-store"}
        if item.name:
            headers["Content-Disposition"] = (
                f"attachment; filename*=UTF-8''{quote(item.name, safe='', errors='replace')}"
            )
        return Response(item.data, media_type=_MEDIA_TYPES.get(suffix, "application/octet-stream"), headers=headers)
