"""gunicorn's worker: it waits for no silent client, and refuses broken requests as the application would."""

import json
import logging
import socket
import struct
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import ThreadWorker

from app.core import metrics
from app.core.errors import AppError, code_of, problem
from app.core.http import network
from app.core.ids import HEADER, new_id, request_id, set_request_id

DETAILS = {
    414: "The address is too long.",
    431: "The request's headers are too many or too long.",
    501: "The body comes in a transfer coding that is not known here.",
}
SILENT_SECONDS = 10  # of a client in the middle of a request or of an answer; a thread is held meanwhile
NOT_HTTP = "This is not a request of HTTP/1.1 as RFC 9112 has it."


class WebWorker(ThreadWorker):  # type: ignore[misc]
    """gthread, with problem documents and request ids in place of gunicorn's own HTML."""

    def init_process(self) -> None:
        util.write_error = write_problem  # gunicorn has no setting for it
        logging.getLogger("gunicorn.error").addFilter(is_no_silent_client)
        super().init_process()

    def handle(self, conn: Any) -> Any:
        """Serve a request, with an end to each wait for the client.

        By the kernel, since gunicorn gives the socket no time-out of Python's: a read that takes too long fails.
        """
        limit = struct.pack("ll", SILENT_SECONDS, 0)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            conn.sock.setsockopt(socket.SOL_SOCKET, option, limit)
        return super().handle(conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Any) -> None:
        """Refuse, without the client's words in the log: they may be a password or a token."""
        set_request_id(str(new_id()))  # the log's line and the answer have the same
        told = nameless(exc) if type(exc).__module__.startswith("gunicorn.") else exc
        super().handle_error(req, client, (network(addr[0]) if addr else "-", -1), told)


def nameless(error: Exception) -> Exception:
    """An error of the same class that says nothing but the class's name."""
    kind = type(error)
    quiet: type[Exception] = type(kind.__name__, (kind,), {"__str__": lambda _: kind.__name__})
    return quiet.__new__(quiet)


def is_no_silent_client(record: logging.LogRecord) -> bool:
    """Whether to log it: a client that says nothing is no error of ours."""
    return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError))


def write_problem(connection: socket.socket, status: int, _reason: str, _message: str) -> None:
    """Answer with a problem document; gunicorn's message quotes the request and its own insides."""
    detail = DETAILS.get(status) or (NOT_HTTP if status < 500 else AppError.detail)  # noqa: PLR2004
    document = problem(status, code_of(status), detail)
    metrics.REFUSALS.labels(document["code"]).inc()
    body = json.dumps(document).encode()
    head = (
        f"HTTP/1.1 {status} {document['title']}\r\n"
        "Connection: close\r\n"
        "Content-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        f"{HEADER}: {request_id()}\r\n\r\n"
    )
    util.write_nonblock(connection, head.encode() + body)
