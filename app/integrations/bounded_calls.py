"""A time limit for a whole HTTP call. The time-outs of a socket cannot give one: they start again with each byte.

A `BoundedCall` knows the socket of its thread's request, from before it connects until the response has been read. When
its time is over, or another thread aborts it, it shuts the socket down, and whatever the thread was waiting for there
fails at once. The call forgets the connection before that goes back into its pool, because another call may then use
it. The look-up of a host's addresses is not covered: only the resolver bounds it.
"""

import contextlib
import socket
import threading
from collections.abc import Iterable
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util.connection import allowed_gai_family

CONNECT_SECONDS = 5.0  # to one address, before the host's next one is tried: enough for two lost SYNs (RFC 6298)

_thread_local = threading.local()


class BoundedCall:
    """Requests of a bounded session inside `with BoundedCall(seconds):` end within that time.

    So does a response that a client of ours reads slowly, if the client's connection is bound by `bind_socket`.

    It has one request in flight at a time. `timed_out` and `aborted` tell afterwards why it ended.
    """

    def __init__(self, seconds: float) -> None:
        self.timed_out = False
        self.aborted = False
        self._handle: socket.socket | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._time_out)
        self._timer.daemon = True

    def __enter__(self) -> "BoundedCall":
        self._timer.start()
        _thread_local.call = self
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        _thread_local.call = None
        self.release_socket()

    def abort(self) -> None:
        """End the call now, from another thread."""
        self.aborted = True
        self._shut_down()

    def _time_out(self) -> None:
        self.timed_out = True
        self._shut_down()

    @property
    def is_stopped(self) -> bool:
        return self.timed_out or self.aborted

    def bind_socket(self, descriptor: int) -> None:
        """From now on, shut down the socket of this descriptor when the call is over."""
        # A handle of its own: TLS detaches the socket from its object, and another socket may reuse a closed number.
        self._hold(socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM))
        if self.is_stopped:
            self._shut_down()

    def release_socket(self) -> None:
        """Forget the socket: the response has been read, and the connection may serve another call."""
        self._hold(None)

    def _hold(self, handle: socket.socket | None) -> None:
        with self._lock:
            if self._handle is not None:
                self._handle.close()
            self._handle = handle

    def _shut_down(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._handle is not None:
                self._handle.shutdown(socket.SHUT_RDWR)


def current_call() -> BoundedCall | None:
    """Return this thread's call, if it makes one."""
    return getattr(_thread_local, "call", None)


def bind_socket(descriptor: int) -> None:
    """Let this thread's call, if it makes one, bound every wait on the socket of this descriptor."""
    call = current_call()
    if call is not None:
        call.bind_socket(descriptor)


def raise_if_stopped() -> None:
    """Raise ConnectionAbortedError if this thread's call is over."""
    call = current_call()
    if call is not None and call.is_stopped:
        raise ConnectionAbortedError("the call is over")


def open_socket(
    host: str, port: int, timeout_seconds: float | None, options: Iterable[tuple[Any, ...]]
) -> socket.socket:
    """Connect to the first of the host's addresses that answers. This thread's call bounds the socket.

    timeout_seconds: for each read and write, and for connecting to each address, which takes CONNECT_SECONDS at most.
    options: arguments of `setsockopt`.
    Raises OSError: that of the last address, or ConnectionAbortedError if the call is over.
    """
    raise_if_stopped()
    failure = OSError("the host has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM):
        connection = socket.socket(family, kind, protocol)
        try:
            for option in options:
                connection.setsockopt(*option)
            connection.settimeout(min(CONNECT_SECONDS, timeout_seconds or CONNECT_SECONDS))
            bind_socket(connection.fileno())
            connection.connect(address)
            raise_if_stopped()  # on Linux `connect` succeeds on a socket that was just shut down
            connection.settimeout(timeout_seconds)
        except OSError as error:
            connection.close()
            raise_if_stopped()
            failure = error
        else:
            return connection
    raise failure


class _Bound:
    """A connection that binds its socket, new or kept alive, to the thread's call with each request."""

    sock: Any

    def _new_conn(self: Any) -> socket.socket:
        try:
            return open_socket(self._dns_host, self.port, self.timeout, self.socket_options or ())
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "no address answers") from error
        except OSError as error:
            raise NewConnectionError(self, str(error)) from error

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            bind_socket(self.sock.fileno())
        super().request(*args, **kwargs)  # type: ignore[misc]


class _Releasing:
    """A pool that takes a connection back only after the thread's call has forgotten it."""

    def _put_conn(self, conn: Any) -> None:
        call = current_call()
        if call is not None:
            call.release_socket()
        super()._put_conn(conn)  # type: ignore[misc]


class _HTTP(_Bound, HTTPConnection):
    pass


class _HTTPS(_Bound, HTTPSConnection):
    pass


class _HTTPPool(_Releasing, HTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(_Releasing, HTTPSConnectionPool):
    ConnectionCls = _HTTPS


BOUND_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class BoundedAdapter(HTTPAdapter):
    """Mount it on a `requests` session to make its calls obey `BoundedCall`, also those through an HTTP proxy."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = BOUND_POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        if isinstance(manager, ProxyManager):  # a SOCKS proxy's connections are of another kind
            manager.pool_classes_by_scheme = BOUND_POOLS
        return manager
