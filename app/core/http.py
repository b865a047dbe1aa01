"""The edge: whom to believe about addresses, how large a body may be, headers that every answer carries."""

import io
from collections.abc import Sequence
from typing import Any

from flask import Flask, Response, current_app, request
from flask_cors import CORS
from werkzeug.middleware.proxy_fix import ProxyFix

from app.core.errors import BodyTooLarge, MalformedJson

MAX_BODY_BYTES = 128 * 1024
MAX_DRAIN_BYTES = 8 * 1024 * 1024
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
STRICT_TRANSPORT_SECURITY = "max-age=31536000"  # a year; subdomains are not this service's to bind
CORS_SECONDS = 600
REQUEST_HEADERS = ["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Prefer", "X-Request-ID"]
RESPONSE_HEADERS = [
    "Allow",
    "Content-Disposition",
    "Idempotent-Replayed",
    "Location",
    "Preference-Applied",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Retry-After",
    "WWW-Authenticate",
    "X-Cache",
    "X-Request-ID",
]


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
    read(stream, MAX_DRAIN_BYTES, keep=False)
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
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = STRICT_TRANSPORT_SECURITY
    return response


def register_http(app: Flask, *, trusted_proxies: int, cors_origins: Sequence[str]) -> None:
    """Bound every body and harden every answer.

    trusted_proxies: how many stand in front, each of which adds to X-Forwarded-For; with 0 nothing a client
    sends about his address or TLS is believed.
    cors_origins: whose pages may call the API from a browser; none when empty.
    """
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.url_map.merge_slashes = False  # `//chatroom` is an unknown address, not a redirect
    if trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=trusted_proxies, x_proto=1)  # type: ignore[method-assign]
    app.before_request(choose_body_limit)
    app.before_request(refuse_oversized_body)
    app.after_request(add_headers)
    if cors_origins:
        CORS(
            app,
            origins=list(cors_origins),
            methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=REQUEST_HEADERS,
            expose_headers=RESPONSE_HEADERS,
            max_age=CORS_SECONDS,
        )
