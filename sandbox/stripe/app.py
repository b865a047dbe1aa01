"""Puts the application together."""

from pathlib import Path

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from sandbox.stripe import control, pages, resources
from sandbox.stripe.api import StandIn, before_call, error_response
from sandbox.stripe.events import Endpoint
from sandbox.stripe.wire import StripeError

MAX_BODY_BYTES = 4 * 1024 * 1024


def create_app(webhook_url: str, webhook_secret: str, state_file: str) -> Flask:
    """Build the stand-in as a WSGI application, and start its sender.

    webhook_url: where events go; nowhere if empty. state_file: where the state is kept; only in memory if empty.
    """
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    here = StandIn(Endpoint(url=webhook_url, secret=webhook_secret), Path(state_file) if state_file else None)
    app.extensions["stand_in"] = here
    app.before_request(before_call)
    for part in (resources, control, pages):
        app.register_blueprint(part.blueprint)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(StripeError, error_response)
    here.sender.start()
    return app


def _http_error(error: HTTPException) -> ResponseReturnValue:
    """Answer errors such as an unknown path or method, under /v1 in Stripe's shape."""
    if error.response is not None:
        return error.response
    if request.path.startswith("/v1/"):
        message = f"Unrecognized request URL ({request.method}: {request.path}). The stand-in does not have it."
        return error_response(StripeError(404, message))
    return jsonify({"error": {"message": error.description}}), error.code or 500
