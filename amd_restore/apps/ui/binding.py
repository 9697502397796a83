"""Socket of the page's server."""

from __future__ import annotations

import socket

from amd_restore.errors import AMDRestoreError


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: address or name of an interface of this machine.
        port: 0 for a free one.

    Raises:
        AMDRestoreError: no such interface, or a port that is in use or not allowed.
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
