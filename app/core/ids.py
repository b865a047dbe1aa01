"""Identifiers: UUIDv7 (RFC 9562), made in Python so that a row has its id before it is written.

Every request has an id, which answers, tasks and logs carry: the client's own if it is sane.
"""

import re
import uuid
from contextvars import ContextVar

import uuid_utils.compat
from flask import Flask, Response, request

HEADER = "X-Request-ID"
SANE = re.compile(r"[A-Za-z0-9._-]{1,128}")

_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def new_id() -> uuid.UUID:
    """A fresh UUIDv7: unique, and roughly in the order of creation, which keeps indexes compact."""
    return uuid_utils.compat.uuid7()


def request_id() -> str | None:
    """The id of the current request or, in the worker, of the request that queued the task."""
    return _current.get()


def set_request_id(value: str | None) -> None:
    """Make what this thread does from now on part of request `value`."""
    _current.set(value)


def register_request_ids(app: Flask) -> None:
    """Give each request an id before anything else happens, and its response the same."""

    def assign() -> None:
        offered = request.headers.get(HEADER, "")
        set_request_id(offered if SANE.fullmatch(offered) else str(new_id()))

    def announce(response: Response) -> Response:
        response.headers[HEADER] = request_id() or str(new_id())
        return response

    app.before_request(assign)
    app.after_request(announce)
