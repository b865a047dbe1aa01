"""httpcore's connections, made to obey `BoundedCall` as those of requests do; with google-genai alone."""

import socket
from typing import Any

import httpcore2
import httpx2

from app.integrations.bounded_calls import current_call


def bound(client: httpx2.Client) -> httpx2.Client:
    """Make the client's calls obey `BoundedCall`, those through a proxy of the environment's too."""
    for transport in (client._transport, *client._mounts.values()):  # httpx2 has no door to the network backend
        if isinstance(transport, httpx2.HTTPTransport):
            transport._pool._network_backend = BoundedBackend()
    client.event_hooks["request"].append(release_after_answer)
    return client


def release_after_answer(request: httpx2.Request) -> None:
    """Let the thread's call forget the connection before it goes back into its pool."""
    call = current_call()

    def trace(event: str, _: Any) -> None:
        if call is not None and event == "http11.response_closed.started":
            call.release_socket()

    request.extensions = {**request.extensions, "trace": trace}


def bind_socket(connection: socket.socket) -> None:
    call = current_call()
    if call is not None:
        call.bind_socket(connection)


class BoundedBackend(httpcore2.SyncBackend):
    """Opens connections that tell the thread's call about themselves."""

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore2.NetworkStream:
        return BoundedStream(super().connect_tcp(*args, **kwargs))


class BoundedStream(httpcore2.NetworkStream):
    """A connection that tells the thread's call which socket it is, with each request that it carries."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream
        self._socket = stream.get_extra_info("socket")

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        bind_socket(self._socket)
        self._stream.write(buffer, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, timeout)

    def start_tls(self, *args: Any, **kwargs: Any) -> httpcore2.NetworkStream:
        with self._socket.dup() as handle:  # the socket itself is emptied before the handshake
            bind_socket(handle)
            return BoundedStream(self._stream.start_tls(*args, **kwargs))

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
