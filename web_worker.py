"""gunicorn's worker, adapted: no silent client delays others, and broken requests get errors like the application's.

gunicorn has no setting for what is replaced here: its HTML error pages, its `Server` header, and a separate packet for
the headers.
"""

import json
import logging
import os
import socket
import struct
import time
from contextlib import suppress
from typing import Any

from gunicorn import util
from gunicorn.http.wsgi import Response
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker
from uuid_utils.compat import uuid7

from app.core.errors import PROBLEM_TYPE, REFUSALS, AppError, code_of, problem
from app.core.http import network
from app.core.tracing import REQUEST_ID_HEADER, request_id, traceparent

SILENT_SECONDS = 10  # how long a client may pause within a request or a response; it holds a thread meanwhile
DETAILS = {
    414: "The address is too long.",
    417: "`Expect` can only be `100-continue`.",
    431: "The request has too many headers, or they are too long.",
    501: "The body has an unknown transfer coding.",
}
NOT_HTTP = "This is not a valid HTTP/1.1 request (RFC 9112)."

gunicorn_headers, gunicorn_write = Response.default_headers, Response.write


class WebWorker(ThreadWorker):  # type: ignore[misc]
    """gthread with problem documents, request ids, and a bound on each wait for a client, which delays no other."""

    def init_process(self) -> None:
        util.write_error = write_problem
        Response.default_headers = headers_without_server
        Response.write = write_with_headers
        logging.getLogger("gunicorn.error").addFilter(ignore_silent_clients)
        super().init_process()

    def is_parent_alive(self) -> bool:
        """Return whether the master is alive. Without it this process ends as if it had been told to."""
        if not super().is_parent_alive():
            self.alive = False
        return bool(self.alive)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Start or stop accepting connections. When ending, accept those that wait, and let the system refuse others.

        gunicorn keeps its socket until its last request has ended: clients that came then waited, and got no answer.
        It would also wait out its whole `graceful_timeout` for a client that has connected and sends nothing.
        """
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
        for listener in self.sockets:
            previous_conns = -1
            while previous_conns < self.nr_conns < self.worker_connections:
                previous_conns = self.nr_conns
                self.accept(listener)
            listener.close()
        self.sockets: list[Any] = []

    def handle(self, conn: Any) -> Any:
        """Serve a request. The kernel bounds each read and write, because gunicorn sets no time-out on the socket."""
        limit = struct.pack("ll", SILENT_SECONDS, 0)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            conn.sock.setsockopt(socket.SOL_SOCKET, option, limit)
        keep = super().handle(conn)
        if not keep:
            with suppress(OSError):  # the client is gone already
                self.wait_until_closed(conn.sock)
        return keep

    def wait_until_closed(self, connection: socket.socket) -> None:
        """Give the client time to read its response before the connection closes, in the request's own thread.

        gunicorn would wait in the thread that accepts connections. After this, it finds nothing left to wait for.
        """
        util.close_graceful(socket.socket(fileno=os.dup(connection.fileno())))  # TLS sockets have no dup()
        connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Any) -> None:
        """Reject a request without quoting it in the log: it may hold a password or a token."""
        request_id.set(str(uuid7()))  # for the log line and the response
        traceparent.set(None)  # otherwise that of the thread's last request
        error = scrub_exception(exc) if type(exc).__module__.startswith("gunicorn.") else exc
        super().handle_error(req, client, (network(addr[0]) if addr else "-", -1), error)


def scrub_exception(error: Exception) -> Exception:
    """Return an error of the same class whose text is only the name of the class."""
    kind = type(error)
    quiet: type[Exception] = type(kind.__name__, (kind,), {"__str__": lambda _: kind.__name__})
    return quiet.__new__(quiet)


def ignore_silent_clients(record: logging.LogRecord) -> bool:
    """Logging filter: drop the error of a client that fell silent, which is not our fault."""
    return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError))


def headers_without_server(response: Response) -> list[str]:
    """Return gunicorn's default headers, except the one that names the server.

    If a part of the body is left unread (`drain_unread`), they announce that the connection closes.
    """
    if getattr(response.req.body, "is_left_unread", False):
        response.force_close()
    return [header for header in gunicorn_headers(response) if not header.startswith("Server:")]


def write_with_headers(response: Response, piece: bytes) -> None:
    """Write a piece of the body. The first shares a packet with the headers, so that the client wakes only once."""
    is_first = not response.headers_sent
    if is_first:
        set_cork(response.sock, True)
    gunicorn_write(response, piece)
    if is_first:
        set_cork(response.sock, False)


def set_cork(connection: socket.socket, is_corked: bool) -> None:
    """Let the kernel wait for a full packet, or send what there is. Works on Linux only, and not on a unix socket."""
    with suppress(AttributeError, OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, is_corked)


def write_problem(connection: socket.socket, status: int, _reason: str, _message: str) -> None:
    """Answer with a problem document; gunicorn's own message quotes the request."""
    detail = DETAILS.get(status) or (NOT_HTTP if status < 500 else AppError.detail)  # noqa: PLR2004
    document = problem(status, code_of(status), detail)
    REFUSALS.labels(document["code"]).inc()
    body = json.dumps(document).encode()
    head = (
        f"HTTP/1.1 {status} {document['title']}\r\n"
        "Connection: close\r\n"
        f"Content-Type: {PROBLEM_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        f"{REQUEST_ID_HEADER}: {request_id.get()}\r\n\r\n"
    )
    util.write_nonblock(connection, head.encode() + body)
