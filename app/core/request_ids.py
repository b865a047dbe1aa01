"""Every request has an id, the client's when it is a sane one, that answers, tasks and logs carry."""

import re
from contextvars import ContextVar

from flask import Flask, Response, request

from app.core.ids import new_id

HEADER = "X-Request-ID"
SANE = re.compile(r"[A-Za-z0-9._-]{1,128}")

_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def request_id() -> str | None:
    """The id of the request under way or, in the worker, of the request that led to the task."""
    return _current.get()


def set_request_id(value: str | None) -> None:
    """Let what this thread does from now on count as part of request `value`."""
    _current.set(value)


def register_request_ids(app: Flask) -> None:
    """Give each request its id before anything else happens, and each response the same."""

    def assign() -> None:
        offered = request.headers.get(HEADER, "")
        set_request_id(offered if SANE.fullmatch(offered) else str(new_id()))

    def announce(response: Response) -> Response:
        response.headers[HEADER] = request_id() or str(new_id())
        return response

    app.before_request(assign)
    app.after_request(announce)
