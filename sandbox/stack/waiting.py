"""Waiting with a deadline, and free ports."""

import random
import socket
import time
from collections.abc import Callable

POLL_SECONDS = 0.05
# Below the range from which systems take the ports of outgoing connections (32768 on Linux, 49152 elsewhere),
# so that nothing slips into the port of a server that is being restarted.
_PORTS = range(20_000, 32_000)
_reserved: dict[int, socket.socket] = {}


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Ask `condition` every 50 ms until it holds; False when it still does not after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def bind_error(port: int, host: str = "127.0.0.1") -> OSError | None:
    """Why a server could not listen on this port; None when it could."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return error
    return None


def free_port(preferred: int | None = None) -> int:
    """A port of 127.0.0.1 on which nothing listens, ours until this process ends: the preferred one if it is free.

    No other process that asks here gets it meanwhile, however long the server takes to listen.
    """
    candidates = random.sample(_PORTS, 200)
    if preferred is not None:
        candidates.insert(0, preferred)
    for port in candidates:
        if bind_error(port) is None and (reserve(port) or port == preferred in _reserved):
            return port
    raise OSError("No free port on 127.0.0.1.")


def reserve(port: int) -> bool:
    """Keep a port from the other processes that ask here; False when one has it, or when we have it already.

    Its UDP twin is the token: the system gives it to one process alone and takes it back when that ends.
    """
    token = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        token.bind(("127.0.0.1", port))
    except OSError:
        token.close()
        return False
    _reserved[port] = token
    return True
