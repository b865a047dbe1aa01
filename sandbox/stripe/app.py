"""The application: put together here, configured by environment variables that `__main__` sets."""

import os
from pathlib import Path

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from sandbox.stripe import catalog, checkout, control, customers, pages, subscriptions
from sandbox.stripe.api import EXTENSION, Settings, StandIn, before_call, error_response
from sandbox.stripe.checkout import portal_blueprint
from sandbox.stripe.wire import StripeError, unrecognized_url

ENVIRONMENT_PREFIX = "STRIPE_STAND_IN_"
MAX_BODY_BYTES = 4 * 1024 * 1024


def settings_from_environment() -> Settings:
    """Settings from `STRIPE_STAND_IN_WEBHOOK_URL`, `_WEBHOOK_SECRET`, `_STATE_FILE` and `_PUBLIC_URL`."""
    values = {
        name: os.environ.get(ENVIRONMENT_PREFIX + name.upper(), "")
        for name in ("webhook_url", "webhook_secret", "state_file", "public_url")
    }
    return Settings(
        webhook_url=values["webhook_url"],
        webhook_secret=values["webhook_secret"] or Settings.webhook_secret,
        state_file=Path(values["state_file"]) if values["state_file"] else None,
        public_url=values["public_url"],
    )


def create_app(settings: Settings | None = None) -> Flask:
    """The stand-in as a WSGI application, its sender started."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    here = StandIn(settings or settings_from_environment())
    app.extensions[EXTENSION] = here
    app.before_request(before_call)
    for part in (customers, catalog, checkout, subscriptions, control, pages):
        app.register_blueprint(part.blueprint)
    app.register_blueprint(portal_blueprint)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(StripeError, error_response)
    here.sender.start()
    return app


def _http_error(error: HTTPException) -> ResponseReturnValue:
    """Unknown paths and methods, in Stripe's shape where Stripe's API is called."""
    if error.response is not None:
        return error.response
    if request.path.startswith("/v1/"):
        return error_response(unrecognized_url(request.method, request.path))
    return jsonify({"error": {"message": error.description}}), error.code or 500
