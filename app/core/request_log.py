"""One line and one count for each request: who, which route, what came of it, how long it took."""

import logging
import time
from functools import partial
from ipaddress import ip_network
from typing import Any

from flask import Flask, Response, g, request
from flask_jwt_extended import get_jwt_identity

from app.core import metrics
from app.core.addresses import parse_address
from app.core.request_ids import request_id, set_request_id

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
