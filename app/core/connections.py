"""The client's connection under a request that is held open."""

import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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


@contextmanager
def hang_up_after(environ: Mapping[str, Any], seconds: float) -> Iterator[None]:
    """Close the client's connection when the block takes longer, however slowly the client reads.

    Only gunicorn shows the connection, which serves another request after the block, and that one is left alone.
    """
    connection: socket.socket | None = environ.get("gunicorn.socket")
    lock, served = threading.Lock(), False

    def hang_up() -> None:
        with lock, suppress(OSError):
            if connection is not None and not served:
                connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            served = True
        timer.cancel()
