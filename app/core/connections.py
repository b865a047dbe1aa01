"""The client's connection under a request that is held open."""

import socket
from collections.abc import Mapping
from typing import Any


def has_hung_up(environ: Mapping[str, Any]) -> bool:
    """Whether the client has closed its connection. Only gunicorn shows it; elsewhere nobody has hung up."""
    connection: socket.socket | None = environ.get("gunicorn.socket")
    if connection is None:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
