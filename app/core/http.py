"""The HTTP edge: bodies, headers, proxies, the client's connection, and one log line and one count per request."""

import logging
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import lru_cache, partial
from http import HTTPStatus
from ipaddress import ip_network
from typing import Any

import flask
from flask import Flask, Response, g, request
from flask_cors import CORS
from prometheus_client import Counter, Histogram
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, RequestTimeout
from werkzeug.middleware.proxy_fix import ProxyFix

from app.core.admission import parse_address
from app.core.errors import MalformedJson
from app.core.logging import log_event

MAX_BODY_BYTES = 128 * 1024
MAX_DRAIN_BYTES = 8 * 1024 * 1024
DRAIN_CHUNK_BYTES = 64 * 1024
MAX_USER_AGENT_CHARS = 255
SERVER_DRAIN_BYTES = 64 * 1024  # of an unread body that gunicorn itself drains: gunicorn/http/parser.py
CONTENT_SECURITY_POLICY = (  # Swagger UI uses inline styles
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
STRICT_TRANSPORT_SECURITY = "max-age=31536000"  # a year; this service does not decide for subdomains
ACTIONS_AFTER_RESPONSE = "actions_after_response"
NO_ROUTE = "(none)"  # every unknown address counts as one
KNOWN_METHODS = {"GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS"}
REQUEST_COUNT = Counter("http_requests", "Requests by method, route and status.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "http_request_duration_seconds",
    "Seconds from the request to the end of its response, including waits and streams.",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60),
)

log = logging.getLogger("app.requests")
_drain_signals: list[Callable[[], bool]] = []


class Request(flask.Request):
    """A request whose body is bounded, and read as a whole or refused."""

    def get_data(self, *args: Any, **kwargs: Any) -> Any:
        """Return the body. Raises RequestEntityTooLarge, RequestTimeout, MalformedJson (cut short, broken chunks)."""
        body = self.environ["wsgi.input"]
        try:
            data = super().get_data(*args, **kwargs)
            # Werkzeug cuts a chunked body off at the limit, and raises nothing
            is_cut = self.content_length is None and self.environ.get("wsgi.input_terminated") and body.read(1)
        except RequestEntityTooLarge:
            raise
        except BadRequest as error:
            raise (RequestTimeout if isinstance(error.__context__, BlockingIOError) else MalformedJson) from None
        except Exception:  # each server has its own exceptions for broken chunks
            raise MalformedJson from None
        if is_cut:
            raise RequestEntityTooLarge
        if len(data) < (self.content_length or 0):  # the client has left, and Werkzeug returns what it has
            raise MalformedJson
        return data


def drain_unread(response: Response) -> Response:
    """Drain what is left of a large body, up to MAX_DRAIN_BYTES. Mark the body if there is more.

    If a server closes while its client still sends, the connection breaks and the client never sees the response. And
    if more is left than gunicorn drains itself, it announces keep-alive and then closes, so that the client's next
    request fails. For a marked body `web_worker.py` announces the close.
    """
    is_large = "Transfer-Encoding" in request.headers or (request.content_length or 0) > SERVER_DRAIN_BYTES
    if is_large and request.environ.get("wsgi.input_terminated"):
        body, bytes_left = request.environ["wsgi.input"], MAX_DRAIN_BYTES
        with suppress(Exception):  # a client that falls silent or goes away; a server whose bodies take no mark
            body.is_left_unread = True
            if response.status_code == HTTPStatus.REQUEST_TIMEOUT:  # the body was waited for already
                return response
            while bytes_left > 0 and (chunk := body.read(min(DRAIN_CHUNK_BYTES, bytes_left))):
                bytes_left -= len(chunk)
            body.is_left_unread = bytes_left <= 0
    return response


def register_http(app: Flask, *, trusted_proxies: int, cors_origins: Sequence[str]) -> None:
    """Bound every body, and harden every response.

    trusted_proxies: how many proxies in front add to X-Forwarded-For; with 0 nothing that a client sends about its
    address or TLS is believed.
    cors_origins: the origins whose pages may call the API from a browser; none if empty.
    """
    app.request_class = Request
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.url_map.merge_slashes = False  # `/user//me` is an unknown address, not a redirect
    if trusted_proxies:
        behind_proxies = ProxyFix(app.wsgi_app, x_for=trusted_proxies, x_proto=1)
        app.wsgi_app = partial(strip_forwarded_quotes, behind_proxies)  # type: ignore[method-assign]
    app.before_request(ignore_preconditions)
    app.after_request(add_security_headers)
    app.after_request(drain_unread)
    if cors_origins:
        app.before_request(answer_preflight)
        CORS(
            app,
            origins=list(cors_origins),
            methods=["GET", "POST", "PATCH", "DELETE"],
            expose_headers="*",  # means every header, because no request may carry cookies
            max_age=600,
        )


def strip_forwarded_quotes(application: Callable[..., Any], environ: dict[str, Any], start_response: Any) -> Any:
    """Remove quotation marks from X-Forwarded-For: Werkzeug ignores what proxies append after an open one."""
    if '"' in (forwarded := environ.get("HTTP_X_FORWARDED_FOR", "")):
        environ["HTTP_X_FORWARDED_FOR"] = forwarded.replace('"', "")
    return application(environ, start_response)


def ignore_preconditions() -> None:
    """Hide `Range`, `If-Match` and the like from every route: Werkzeug would refuse them without a problem document.

    `If-Modified-Since` too: our answers have an ETag, and Werkzeug raises OverflowError for a date with huge numbers.
    """
    for header in ("HTTP_RANGE", "HTTP_IF_MATCH", "HTTP_IF_MODIFIED_SINCE", "HTTP_IF_UNMODIFIED_SINCE"):
        request.environ.pop(header, None)


def answer_preflight() -> Response | None:
    """Accept the preflight of every address, even an unknown one.

    If it were a 404, the browser would not send the request, and the page would see a network error, not our 404.
    """
    is_preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    return Response() if is_preflight else None


def add_security_headers(response: Response) -> Response:
    """Forbid sniffing, framing and the like, and caching unless the view says otherwise."""
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    if response.status_code in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
        response.headers.remove("Content-Type")  # there is no content, whatever `jsonify` says
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = STRICT_TRANSPORT_SECURITY
    return response


def register_request_log(app: Flask) -> None:
    """Log and count each request at its very end: for a stream, after its last event."""

    def begin() -> None:
        g.began = time.monotonic()

    def finish(response: Response) -> Response:
        fields: dict[str, Any] = {
            "method": request.method if request.method in KNOWN_METHODS else "(other)",
            "route": request.url_rule.rule if request.url_rule else NO_ROUTE,
            "status": response.status_code,
            "user_id": g.get("token_claims", {}).get("sub", "-"),
            "network": network(request.remote_addr),
        }
        began, actions = getattr(g, "began", time.monotonic()), g.setdefault(ACTIONS_AFTER_RESPONSE, [])
        response.direct_passthrough = False  # otherwise Werkzeug never closes the response of a file
        response.call_on_close(partial(copy_context().run, end, fields, began, actions))  # with its id and trace
        return response

    def end(fields: dict[str, Any], began: float, actions: list[Callable[[], None]]) -> None:
        try:
            log_request(fields, began)
        finally:  # even if the metrics cannot be written
            while actions:  # once, however often the response is closed
                actions.pop(0)()

    app.before_request(begin)
    app.after_request(finish)


def after_response(action: Callable[[], None]) -> None:
    """Run `action` once the client has its response, under the request's id and trace. `action` handles its errors."""
    g.setdefault(ACTIONS_AFTER_RESPONSE, []).append(action)


def log_request(fields: dict[str, Any], began: float) -> None:
    """Log and count one request. began: on time.monotonic()."""
    seconds = time.monotonic() - began
    REQUEST_COUNT.labels(fields["method"], fields["route"], fields["status"]).inc()
    REQUEST_SECONDS.labels(fields["method"], fields["route"]).observe(seconds)
    sentence = "%(method)s %(route)s %(status)s in %(duration_ms)s ms, user %(user_id)s from %(network)s"
    log_event(log, "request", sentence, **fields, duration_ms=round(seconds * 1_000, 1))


@lru_cache(maxsize=4_096)
def network(address: str | None) -> str:
    """Return a client's network. Its /24 or /48 is enough for an investigation, and identifies nobody."""
    parsed = parse_address(address)
    if parsed is None:
        return "-"
    return str(ip_network((parsed, 24 if parsed.version == 4 else 48), strict=False))  # noqa: PLR2004


@dataclass(frozen=True)
class Client:
    """Where a request comes from, as far as known. The fields are named after the columns that keep them.

    ip: in its canonical spelling. user_agent: MAX_USER_AGENT_CHARS at most.
    """

    ip: str | None
    user_agent: str | None


def current_client() -> Client:
    """Return the client of the request."""
    address, agent = parse_address(request.remote_addr), request.user_agent.string[:MAX_USER_AGENT_CHARS]
    return Client(ip=str(address) if address else None, user_agent=agent or None)


def has_hung_up(environ: Mapping[str, Any]) -> bool:
    """Return whether the client has closed its connection, or its half of it.

    Always False if the server does not expose the connection: only gunicorn does, and not when it terminates TLS
    itself. The bytes of a next request hide the close as well.
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


def add_drain_signal(signal: Callable[[], bool]) -> None:
    """Add a function that tells whether this process is about to end. The server's hooks provide one."""
    _drain_signals.append(signal)


def is_draining() -> bool:
    """Return whether this process is about to end, so that streams and waits should end now."""
    return any(signal() for signal in _drain_signals)
