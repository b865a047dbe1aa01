"""The edge: how large a body may be, and headers that every answer carries."""

import io
from typing import Any

from flask import Flask, Response, request

from app.core.errors import BodyTooLarge

MAX_BODY_BYTES = 128 * 1024
MAX_READ_AWAY_BYTES = 8 * 1024 * 1024
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


def refuse_oversized_body() -> None:
    """Answer 413 to a body that is announced as too large, once it is read away.

    A server that closes while its client still sends makes the client see a broken connection, not the answer.
    """
    limit = request.max_content_length
    if limit is None or (request.content_length or 0) <= limit:
        return
    stream: Any = request.environ["wsgi.input"]
    left = min(request.content_length or 0, MAX_READ_AWAY_BYTES)
    while left > 0 and (chunk := stream.read(min(65_536, left))):
        left -= len(chunk)
    request.environ["wsgi.input"] = io.BytesIO()
    raise BodyTooLarge


def add_headers(response: Response) -> Response:
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


def register_http(app: Flask) -> None:
    """Bound every body and harden every answer."""
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.before_request(refuse_oversized_body)
    app.after_request(add_headers)
