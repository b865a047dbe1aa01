"""Failures made on purpose: errors, delays, holds, hangs and dropped connections, for chosen calls."""

import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from sandbox.stripe.wire import of_status, parameter_invalid

LONGEST_HANG_SECONDS = 600
MOMENTS = ("before", "during", "within", "after")
OWN_FIELDS = {"reached", "released"}


class ConnectionDroppedError(Exception):
    """The answer must not be sent: the connection is cut instead."""


@dataclass
class Behaviour:
    """What happens to the calls that fit.

    path: the beginning of the paths it is for. method: e.g. POST; any when empty. times: how many calls; all
    when None. when: `before` the call is seen, so that nothing happens at Stripe; `during`, while its
    idempotency key is in use; `within`, so that the key keeps the failure; or `after`, so that all of it
    happened and only the answer is lost. A call on `hold` goes on when other behaviours are put in force, one
    that is to `hang` never does.
    """

    path: str = "/v1/"
    method: str = ""
    times: int | None = None
    when: str = "before"
    status: int | None = None
    code: str | None = None
    delay: float = 0.0
    hold: bool = False
    hang: bool = False
    drop: bool = False
    reached: threading.Event = field(default_factory=threading.Event, repr=False)
    released: threading.Event = field(default_factory=threading.Event, repr=False)

    @classmethod
    def parse(cls, body: Any) -> "Behaviour":
        """From the control API's JSON. Raises StripeError for unknown fields, and for values of the wrong kind."""
        known = set(cls.__dataclass_fields__) - OWN_FIELDS
        if not isinstance(body, dict) or set(body) - known:
            raise parameter_invalid("behaviour", f"A behaviour is an object with some of: {sorted(known)}")
        kinds = get_type_hints(cls) | {"delay": int | float}
        wrong = sorted(name for name, value in body.items() if not isinstance(value, kinds[name]))
        if wrong:
            raise parameter_invalid(wrong[0], f"`{wrong[0]}` is of the wrong kind.")
        if body.get("when", "before") not in MOMENTS:
            raise parameter_invalid("when", f"`when` is one of {MOMENTS}.")
        return cls(**body)


class Behaviours:
    """The behaviours in force, the first that fits wins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: list[Behaviour] = []

    def replace(self, behaviours: list[Behaviour]) -> None:
        """Put these in force and let go of every call that waits."""
        with self._lock:
            self.close()
            self._active = behaviours

    def close(self) -> None:
        """Let go of every call that waits. Safe in a signal handler: it takes no lock of ours."""
        for behaviour in self._active:
            behaviour.released.set()

    def wait_held(self, timeout_seconds: float) -> bool:
        """Wait until a call is on hold; whether that came in time."""
        held = [behaviour.reached for behaviour in self._active if behaviour.hold]
        return bool(held) and held[0].wait(timeout_seconds)

    def apply(self, when: str, method: str, path: str) -> None:
        """Delay or fail this call as told.

        Raises StripeError, or ConnectionDroppedError for a connection to cut.
        """
        behaviour = self._take(when, method, path)
        if behaviour is None:
            return
        behaviour.released.wait(behaviour.delay)
        if behaviour.hold:
            behaviour.reached.set()
            behaviour.released.wait(LONGEST_HANG_SECONDS)
        if behaviour.hang:
            behaviour.released.wait(LONGEST_HANG_SECONDS)
            raise ConnectionDroppedError
        if behaviour.drop:
            raise ConnectionDroppedError
        if behaviour.status:
            raise of_status(behaviour.status, behaviour.code)

    def _take(self, when: str, method: str, path: str) -> Behaviour | None:
        with self._lock:
            for behaviour in self._active:
                fits = behaviour.when == when and path.startswith(behaviour.path)
                if fits and behaviour.method.upper() in ("", method) and behaviour.times != 0:
                    if behaviour.times is not None:
                        behaviour.times -= 1
                    return behaviour
        return None


def cut(connection: Any) -> None:
    """Reset a client's connection, so that it sees neither an answer nor a clean end."""
    if isinstance(connection, socket.socket):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
