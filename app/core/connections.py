"""The client's connection under a request that is held open."""

import socket
import ssl
from collections.abc import Mapping
from typing import Any


def has_hung_up(environ: Mapping[str, Any]) -> bool:
    """Whether the client has closed its connection, or its half of it.

    Only gunicorn shows it, and not under TLS of its own; elsewhere nobody has hung up. Bytes of a next request hide it.
    """
    connection: socket.socket | None = environ.get("gunicorn.socket")
    if connection is None or isinstance(connection, ssl.SSLSocket):
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
