"""gunicorn's worker, which refuses what never reaches the application as the application would."""

import json
import socket
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import ThreadWorker

from app.core import metrics
from app.core.errors import AppError, code_of, problem
from app.core.ids import new_id
from app.core.request_ids import HEADER, request_id, set_request_id

DETAILS = {
    414: "The address is too long.",
    431: "The request's headers are too many or too long.",
    501: "The body comes in a transfer coding that is not known here.",
}
NOT_HTTP = "This is not a request of HTTP/1.1 as RFC 9112 has it."


class WebWorker(ThreadWorker):  # type: ignore[misc]
    """gthread, with problem documents and request ids in place of gunicorn's own HTML."""

    def init_process(self) -> None:
        util.write_error = write_problem  # gunicorn has no setting for it
        super().init_process()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Any) -> None:
        set_request_id(str(new_id()))  # the log's line and the answer have the same
        super().handle_error(req, client, addr, exc)


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
