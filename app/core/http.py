"""The edge: whom to believe about addresses, how large a body may be, headers that every answer carries.

The client's connection under a request that is held open.

Whether this process is about to end, for those who hold a request open for long.

One line and one count for each request: who, which route, what came of it, how long it took.
"""

import io
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import ip_network
from typing import Any

from flask import Flask, Response, current_app, g, request
from flask_cors import CORS
from flask_jwt_extended import get_jwt_identity
from werkzeug.middleware.proxy_fix import ProxyFix

from app.core import metrics
from app.core.errors import BodyTooLarge, MalformedJson
from app.core.ids import request_id, set_request_id
from app.core.limits import parse_address

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


def has_hung_up(environ: Mapping[str, Any]) -> bool:
    """Whether the client has closed its connection, or its half of it.

    Only gunicorn shows it, and not under TLS of its own; elsewhere nobody has hung up. Bytes of a next request hide it.
    """
    connection: socket.socket | None = environ.get("gunicorn.socket")
    if connection is None or isinstance(connection, ssl.SSLSocket):
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@contextmanager
def hang_up_after(environ: Mapping[str, Any], seconds: float) -> Iterator[None]:
    """Close the client's connection when the block takes longer, however slowly the client reads.

    Only gunicorn shows the connection, which serves another request after the block, and that one is left alone.
    """
    connection: socket.socket | None = environ.get("gunicorn.socket")
    lock, served = threading.Lock(), False

    def hang_up() -> None:
        with lock, suppress(OSError):
            if connection is not None and not served:
                connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            served = True
        timer.cancel()


_signs: list[Callable[[], bool]] = []


def watch(leaving: Callable[[], bool]) -> None:
    """Take `leaving` as a sign; the server's own hooks say what it is."""
    _signs.append(leaving)


def is_draining() -> bool:
    """Whether a held request should come to an end now."""
    return any(leaving() for leaving in _signs)


log = logging.getLogger("app.requests")

NO_ROUTE = "(none)"  # every unknown address counts as one
KNOWN_METHODS = {"GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS"}


def register_request_log(app: Flask) -> None:
    """Log and count each request at its very end, which for a stream is when its last event is sent."""

    def begin() -> None:
        g.began = time.monotonic()

    def finish(response: Response) -> Response:
        facts: dict[str, Any] = {
            "method": request.method if request.method in KNOWN_METHODS else "(other)",
            "route": request.url_rule.rule if request.url_rule else NO_ROUTE,
            "status": response.status_code,
            "user_id": user_id() or "-",
            "network": network(request.remote_addr),
        }
        response.call_on_close(partial(conclude, facts, getattr(g, "began", time.monotonic()), request_id()))
        return response

    app.before_request(begin)
    app.after_request(finish)


def conclude(facts: dict[str, Any], began: float, its_request_id: str | None) -> None:
    seconds = time.monotonic() - began
    set_request_id(its_request_id)
    metrics.REQUESTS.labels(facts["method"], facts["route"], facts["status"]).inc()
    metrics.REQUEST_SECONDS.labels(facts["method"], facts["route"]).observe(seconds)
    told: dict[str, Any] = {**facts, "duration_ms": round(seconds * 1_000, 1)}
    log.info(
        "%(method)s %(route)s %(status)s in %(duration_ms)s ms, user %(user_id)s from %(network)s",
        told,
        extra={"event": "request"} | told,
    )


def user_id() -> str | None:
    """Whose valid token the request carries; None where none was asked for."""
    try:
        return str(get_jwt_identity() or "") or None
    except RuntimeError:  # the route asks for no token
        return None


def network(address: str | None) -> str:
    """The network that a client comes from: /24 or /48 say enough for an investigation, and name nobody."""
    parsed = parse_address(address)
    if parsed is None:
        return "-"
    return str(ip_network((parsed, 24 if parsed.version == 4 else 48), strict=False))  # noqa: PLR2004
