"""The edge: how large a body may be, and headers that every answer carries."""

import io
from typing import Any

from flask import Flask, Response, current_app, request

from app.core.errors import BodyTooLarge, MalformedJson

MAX_BODY_BYTES = 128 * 1024
MAX_READ_AWAY_BYTES = 8 * 1024 * 1024
READ_BYTES = 64 * 1024
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # Swagger UI styles its elements in place
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)


def choose_body_limit() -> None:
    """Let a view class that says so (`max_body_bytes`) take larger bodies than the others."""
    view = current_app.view_functions.get(request.endpoint or "")
    own_limit: int | None = getattr(getattr(view, "view_class", None), "max_body_bytes", None)
    if own_limit is not None:
        request.max_content_length = own_limit


def refuse_oversized_body() -> None:
    """Answer 413 to a body that is larger than allowed, whether it says so beforehand or comes in chunks.

    The rest of it is read away first: a server that closes while its client still sends makes the client see a
    broken connection, not the answer. Raises BodyTooLarge, MalformedJson (broken chunks).
    """
    limit = request.max_content_length
    if limit is None:
        return
    stream: Any = request.environ["wsgi.input"]
    if "Transfer-Encoding" in request.headers:
        body = read(stream, limit + 1)
        request.environ["wsgi.input"] = io.BytesIO(body)
        if len(body) <= limit:
            return
    elif (request.content_length or 0) <= limit:
        return
    read(stream, MAX_READ_AWAY_BYTES, keep=False)
    request.environ["wsgi.input"] = io.BytesIO()
    raise BodyTooLarge


def read(stream: Any, at_most: int, *, keep: bool = True) -> bytes:
    """Up to `at_most` bytes of a body, or nothing when they are not to be kept. Raises MalformedJson."""
    kept, left = bytearray(), at_most
    try:
        while left > 0 and (piece := stream.read(min(READ_BYTES, left))):
            left -= len(piece)
            if keep:
                kept += piece
    except Exception:  # each server has its own exceptions for chunks that are none
        raise MalformedJson from None
    return bytes(kept)


def add_headers(response: Response) -> Response:
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


def register_http(app: Flask) -> None:
    """Bound every body and harden every answer."""
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.url_map.merge_slashes = False  # `//chatroom` is an unknown address, not a redirect
    app.before_request(choose_body_limit)
    app.before_request(refuse_oversized_body)
    app.after_request(add_headers)
