"""A bound on a whole HTTP call, which no time-out of a socket gives: those start anew with each byte.

A `BoundedCall` knows the socket that its thread is talking through; when its time is over, or another thread
aborts it, the socket is shut down, and whatever the thread was waiting for there ends at once with an error.
"""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

_of_thread = threading.local()


class BoundedCall:
    """What runs inside `with BoundedCall(seconds):` ends within that time, if it waits for a bounded session.

    `timed_out` and `aborted` tell afterwards why it ended.
    """

    def __init__(self, seconds: float) -> None:
        self.timed_out = False
        self.aborted = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._time_out)
        self._timer.daemon = True

    def __enter__(self) -> "BoundedCall":
        _of_thread.call = self
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        _of_thread.call = None
        with self._lock:
            self._socket = None

    def abort(self) -> None:
        """End the call now, from another thread."""
        self.aborted = True
        self._shut_down()

    def _time_out(self) -> None:
        self.timed_out = True
        self._shut_down()

    def talk_through(self, connection: socket.socket) -> None:
        with self._lock:
            self._socket = connection
        if self.timed_out or self.aborted:
            self._shut_down()

    def _shut_down(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._socket is not None:
                # An SSLSocket's own shutdown() drops its TLS first: another thread could then send in the clear.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def talk_through(connection: socket.socket) -> None:
    """Tell this thread's call, if it makes one, which socket it waits at from now on."""
    call: BoundedCall | None = getattr(_of_thread, "call", None)
    if call is not None:
        call.talk_through(connection)


class _Reporting:
    """Tells the thread's call which socket a request goes through, new or kept alive."""

    sock: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self._report()

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._report()
        super().request(*args, **kwargs)  # type: ignore[misc]

    def _report(self) -> None:
        call: BoundedCall | None = getattr(_of_thread, "call", None)
        if call is not None and self.sock is not None:
            call.talk_through(self.sock)


class _ReportingHTTP(_Reporting, HTTPConnection):
    pass


class _ReportingHTTPS(_Reporting, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _ReportingHTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _ReportingHTTPS


class BoundedAdapter(HTTPAdapter):
    """Mount it on a `requests` session to make its calls obey `BoundedCall`."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
