"""A server that says what a test tells it to, byte by byte, over http or https."""

import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

Script = Callable[[socket.socket], None]

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"


@contextmanager
def serving(script: Script, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run the script on each connection. Yields the server's address. context: for https."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections: list[socket.socket] = []

        def serve(connection: socket.socket) -> None:
            with suppress(OSError, ValueError):  # ValueError: one that is closed below has no descriptor
                encrypted = context.wrap_socket(connection, server_side=True) if context else connection
                connections.append(encrypted)
                read_request(encrypted)
                script(encrypted)
                encrypted.close()

        def accept() -> None:
            with suppress(OSError):
                while not over.is_set():
                    connection, _ = server.accept()
                    threading.Thread(target=serve, args=[connection], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"{'https' if context else 'http'}://127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            server.shutdown(socket.SHUT_RDWR)
            for connection in connections:
                connection.close()


def read_request(connection: socket.socket) -> None:
    """Read a request up to the end of its body."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += receive(connection)
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length")), 0)
    while len(body) < length:
        body += receive(connection)


def receive(connection: socket.socket) -> bytes:
    """Return what came. Raises ConnectionResetError at the end."""
    piece = connection.recv(65_536)
    if not piece:
        raise ConnectionResetError
    return piece


def says(*parts: bytes) -> Script:
    """Send this and close."""

    def script(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)

    return script


def tunnel_to(url: str) -> Script:
    """Act as a proxy that was asked for a tunnel to this server: pass on what either side sends."""
    port = int(url.rpartition(":")[2])

    def script(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(("127.0.0.1", port)) as behind:
            other = {connection: behind, behind: connection}
            while True:
                for source in select.select(list(other), [], [])[0]:
                    piece = source.recv(65_536)
                    if not piece:
                        return
                    other[source].sendall(piece)

    return script


@contextmanager
def silent_address() -> Iterator[tuple[str, int]]:
    """An address that neither takes nor refuses connections, like one behind a firewall: its queue is full."""
    with ExitStack() as ends:
        server = ends.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        ends.enter_context(socket.create_connection(server.getsockname()))
        for _ in range(2):
            waiting = ends.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()
