"""Waiting with a deadline, and free ports."""

import random
import socket
import time
from collections.abc import Callable

POLL_SECONDS = 0.05
# Below the range from which systems take the ports of outgoing connections (32768 on Linux, 49152 elsewhere),
# so that nothing slips into the port of a server that is being restarted.
_PORTS = range(20_000, 32_000)


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
    """A port of 127.0.0.1 on which nothing listens: the preferred one if it is free."""
    if preferred is not None and bind_error(preferred) is None:
        return preferred
    for port in random.sample(_PORTS, 200):
        if bind_error(port) is None:
            return port
    raise OSError("No free port on 127.0.0.1.")
