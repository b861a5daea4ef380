"""Whether somebody is at an address: asked within seconds, and nothing is said to them."""

from __future__ import annotations

import socket
from typing import Final
from urllib.parse import urlsplit

__all__ = ["CONNECT_S", "why_unreachable"]

CONNECT_S: Final = 2.0
"""How long a connection may take."""

_SCHEMES: Final = frozenset({"", "http", "https", "tcp", "tls", "ws", "wss"})


def why_unreachable(address: str, port: int | None = None) -> str | None:
    """Why no connection comes about; ``None`` where one does, or where it is none of TCP's.

    Args:
        address: ``host:port``, with or without a scheme before it and a path behind.
        port: Where the address has none.
    """
    scheme, separator, rest = address.rpartition("://")
    if separator and scheme not in _SCHEMES:
        return None
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port or port
    except ValueError as error:
        return str(error)
    if not host or port is None:
        return "it is not host:port"
    try:
        with socket.create_connection((host, port), timeout=CONNECT_S):
            return None
    except OSError as error:
        return error.strerror or str(error)
