"""Failures made on purpose: errors, delays, holds, hangs and dropped connections, for chosen calls."""

import socket
import struct
import threading
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr

from sandbox.stripe.wire import of_status

LONGEST_HANG_SECONDS = 600


class ConnectionDroppedError(Exception):
    """The answer must not be sent: the connection is cut instead."""


class Behaviour(BaseModel):
    """What happens to the calls that match.

    path: what their paths begin with. method: such as POST; any if empty. times: how many calls; all if None. when:
    `before` the call is seen, so that nothing happens at Stripe; `during`, while its idempotency key is in use;
    `within`, so that the key keeps the failure; or `after`, so that everything has happened and only the answer is
    lost. A call on `hold` continues when another behaviour is put in force; one that has to `hang` never does. The
    default does nothing.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    path: str = "/v1/"
    method: str = ""
    times: int | None = None
    when: Literal["before", "during", "within", "after"] = "before"
    status: int | None = None
    code: str | None = None
    delay: float = 0.0
    hold: bool = False
    hang: bool = False
    drop: bool = False
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _reached: threading.Event = PrivateAttr(default_factory=threading.Event)
    _released: threading.Event = PrivateAttr(default_factory=threading.Event)

    def release(self) -> None:
        """Release every waiting call. Safe in a signal handler: it takes no lock of ours."""
        self._released.set()

    def wait_held(self, timeout_seconds: float) -> bool:
        """Wait until a call is on hold. Returns False if none is in time."""
        return self._reached.wait(timeout_seconds)

    def apply(self, when: str, method: str, path: str) -> None:
        """Delay or fail a call if it matches. Raises StripeError, or ConnectionDroppedError to cut the connection."""
        fits = when == self.when and path.startswith(self.path) and self.method.upper() in ("", method)
        with self._lock:
            if not fits or self.times == 0:
                return
            if self.times is not None:
                self.times -= 1
        self._released.wait(self.delay)
        if self.hold:
            self._reached.set()
        if self.hold or self.hang:
            self._released.wait(LONGEST_HANG_SECONDS)
        if self.hang or self.drop:
            raise ConnectionDroppedError
        if self.status:
            raise of_status(self.status, self.code)


def cut(connection: Any) -> None:
    """Reset a client's connection, so that it sees neither an answer nor a clean end."""
    if isinstance(connection, socket.socket):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
