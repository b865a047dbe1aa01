"""Ctrl-C and its relatives, as a flag that the main thread looks at."""

import signal
import time
from types import FrameType

from sandbox.stack.errors import StoppedError

# A terminal, `make` and a process manager may each pass on the same Ctrl-C.
_ECHO_SECONDS = 0.7


class StopSignals:
    """`requested` after the first SIGINT, SIGTERM or SIGHUP; `hurried` after another SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.requested = False
        self.hurried = False
        self._first = 0.0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._heard)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.request()
        elif number != signal.SIGHUP and now - self._first > _ECHO_SECONDS:
            self.hurried = True

    def request(self) -> None:
        """Ask for the end, as a signal does."""
        self.requested = True
        self._first = time.monotonic()

    def check(self) -> None:
        """Raise StoppedError when the end was asked for."""
        if self.requested:
            raise StoppedError
