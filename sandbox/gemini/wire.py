"""Waiting, hanging and breaking off, on the client's own socket.

A waiting request costs a sleeping thread and no CPU: it sits in one poll() on the client's socket (so it
notices when the client leaves) and on wakers (so that it can be let go).
"""

import contextlib
import math
import select
import socket

from flask import Response, request

LONGEST_HANG_SECONDS = 600.0
# POLLRDHUP is Linux; elsewhere a readable socket in mid-request means that the client has closed it.
CLIENT_LEFT = getattr(select, "POLLRDHUP", select.POLLIN)


class Waker:
    """Wakes every thread that waits on it, at once, and is then ready for the next ones."""

    def __init__(self) -> None:
        self._ends = socket.socketpair()

    def current(self) -> socket.socket:
        """Return what a thread polls on; it becomes readable when the waker fires."""
        return self._ends[0]

    def fire(self) -> None:
        """Wake all who hold the current socket."""
        fired, self._ends = self._ends, socket.socketpair()
        fired[1].close()


class Closing(Waker):
    """A waker that fires once and stays so, for the end of the process. Safe in a signal handler."""

    def fire(self) -> None:
        self._ends[1].close()


class Line:
    """The connection of the request being served, and the wakers that may cut a wait on it short."""

    def __init__(self, *, closing: Closing, released: Waker) -> None:
        self._client: socket.socket | None = request.environ.get("gunicorn.socket")
        self._closing = closing.current()
        self._released = released

    def pause(self, seconds: float) -> bool:
        """Wait; False when the client has left or the process is ending."""
        return seconds <= 0 or self._poll(seconds, None)

    def hang(self) -> bool:
        """Wait until released, 10 minutes at most; False when there is nobody left to answer."""
        return self._poll(LONGEST_HANG_SECONDS, self._released.current())

    def cut(self) -> Response:
        """Close the connection; what is returned or written after this reaches nobody."""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)
        return Response(status=499)

    def _poll(self, seconds: float, released: socket.socket | None) -> bool:
        poll = select.poll()
        poll.register(self._closing, select.POLLIN)
        if self._client is not None:
            poll.register(self._client, CLIENT_LEFT)
        if released is not None:
            poll.register(released, select.POLLIN)
        woken = {descriptor for descriptor, _ in poll.poll(math.ceil(seconds * 1000))}
        return not woken or (released is not None and woken == {released.fileno()})
