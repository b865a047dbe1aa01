"""Routes for operators, and the docs page."""

import hmac
from pathlib import Path

import flask_swagger_ui
from flask import Response, redirect, render_template, send_from_directory
from prometheus_client import CONTENT_TYPE_LATEST

from app.core import fields, settings
from app.core.api import Blueprint
from app.core.auth import TokenInvalid, TokenMissing, bearer_token
from app.core.errors import NotFound, ServiceUnavailable
from app.core.schemas import Schema
from app.ops import metrics
from app.ops.health import failing_dependencies

SWAGGER_UI = Path(flask_swagger_ui.__file__).parent / "dist"

blp = Blueprint("operations", __name__, description="Health and metrics, for load balancers and operators.")
docs = Blueprint("docs", __name__, template_folder="templates", static_folder="static", static_url_path="/docs/page")


class HealthOut(Schema):
    """The process answers."""

    status = fields.String("Always `ok`.", example="ok")


@blp.get("/healthz")
@blp.public("getHealth")
@blp.response(200, HealthOut)
def get_health() -> object:
    """Is the process alive?

    Asks neither PostgreSQL nor Redis: for the platform's health check."""
    return {"status": "ok"}


@blp.get("/readyz")
@blp.public("getReadiness")
@blp.response(200, HealthOut)
def get_readiness() -> object:
    """Can it serve?

    Asks PostgreSQL and Redis; the 503 names the one that does not answer."""
    failing = failing_dependencies()
    if failing:
        raise ServiceUnavailable(f"Does not answer: {', '.join(failing)}.")
    return {"status": "ok"}


@blp.get("/metrics")
@blp.public("getMetrics")
@blp.response(200, {"type": "string"}, content_type="text/plain", example="http_requests_total{…} 1.0")
@blp.errors(NotFound, TokenMissing, TokenInvalid)
def get_metrics() -> Response:
    """How is it doing?

    Numbers in Prometheus' text format, for the bearer of METRICS_TOKEN. Without that setting they are open in
    development and 404 in production."""
    check_metrics_token()
    return Response(metrics.exposition(), content_type=CONTENT_TYPE_LATEST)


def check_metrics_token() -> None:
    """Require METRICS_TOKEN as the bearer token. Raises NotFound, TokenMissing, TokenInvalid."""
    expected = settings().metrics_token
    if not expected:
        if settings().is_production:
            raise NotFound
        return
    if not hmac.compare_digest(bearer_token().encode(), expected.encode()):
        raise TokenInvalid


@docs.route("/")
def home() -> object:
    """The way to the docs page."""
    return redirect("/docs")


@docs.route("/docs")
def swagger_ui() -> str:
    """Swagger UI, only from this origin and without inline scripts."""
    return render_template("docs.html")


@docs.route("/docs/assets/<path:name>")
def swagger_ui_asset(name: str) -> Response:
    """A file of Swagger UI."""
    return send_from_directory(SWAGGER_UI, name, max_age=86_400)
