"""A bound on a whole HTTP call, which no time-out of a socket gives: those start anew with each byte.

A `BoundedCall` knows the socket that its thread's request goes through, from the request to the end of its answer;
when its time is over, or another thread aborts it, the socket is shut down, and whatever the thread was waiting for
there ends at once with an error. Before the connection goes back into its pool, the call forgets it: from then on
it may be another call's.
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

    It has one request under way at a time. `timed_out` and `aborted` tell afterwards why it ended.
    """

    def __init__(self, seconds: float) -> None:
        self.timed_out = False
        self.aborted = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._time_out)
        self._timer.daemon = True

    def __enter__(self) -> "BoundedCall":
        self._timer.start()
        _of_thread.call = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        _of_thread.call = None
        self.release_socket()

    def abort(self) -> None:
        """End the call now, from another thread."""
        self.aborted = True
        self._shut_down()

    def _time_out(self) -> None:
        self.timed_out = True
        self._shut_down()

    def bind_socket(self, connection: socket.socket) -> None:
        """The call waits at this socket from now on."""
        with self._lock:
            self._socket = connection
        if self.timed_out or self.aborted:
            self._shut_down()

    def release_socket(self) -> None:
        """The answer is read: from now on the connection is not this call's to shut down."""
        with self._lock:
            self._socket = None

    def _shut_down(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._socket is not None:
                # An SSLSocket's own shutdown() drops its TLS first: another thread could then send in the clear.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def current_call() -> BoundedCall | None:
    """The call that this thread makes, if it makes one."""
    return getattr(_of_thread, "call", None)


class _Bound:
    """A connection that tells the thread's call its socket, new or kept alive, with each request."""

    sock: Any
    call: BoundedCall | None = None

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self._bind()

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._bind()
        super().request(*args, **kwargs)  # type: ignore[misc]

    def _bind(self) -> None:
        self.call = current_call()
        if self.call is not None and self.sock is not None:
            self.call.bind_socket(self.sock)

    def release(self) -> None:
        if self.call is not None:
            self.call.release_socket()
            self.call = None


class _Releasing:
    """A pool that takes a connection back only after its call has forgotten it."""

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.release()
        super()._put_conn(conn)  # type: ignore[misc]


class _HTTP(_Bound, HTTPConnection):
    pass


class _HTTPS(_Bound, HTTPSConnection):
    pass


class _HTTPPool(_Releasing, HTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(_Releasing, HTTPSConnectionPool):
    ConnectionCls = _HTTPS


class BoundedAdapter(HTTPAdapter):
    """Mount it on a `requests` session to make its calls obey `BoundedCall`."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
