"""The HTTP side: Google's routes, and those that steer and watch the stand-in.

Source: https://ai.google.dev/api/generate-content.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.wsgi import ClosingIterator

from sandbox.gemini import requests
from sandbox.gemini.answers import JSON_TYPE, Format, compose, serve, tokens
from sandbox.gemini.behaviour import Line, UnknownBehaviourError, read_fields
from sandbox.gemini.errors import ApiError, invalid_api_key, invalid_argument, missing_api_key, model_not_found, to_json
from sandbox.gemini.requests import Conversation, read_conversation
from sandbox.gemini.state import Counters, StandIn

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LONGEST_WATCH_SECONDS = 60.0

WELCOME = (
    "This is the sandbox's stand-in for the Gemini API (POST /v1beta/models/gemini-3.5-flash:generateContent "
    "with any API key); steer one request by a directive in its prompt, such as [[sandbox: status=503]] or "
    "[[sandbox: delay=3]], and all of them by PUT /sandbox/behaviour.\n"
)
HEADERS_OF_INTEREST = ("x-request-id", "user-agent", "x-goog-api-client", "content-type", "traceparent")

google = Blueprint("google", __name__, url_prefix="/v1beta")
control = Blueprint("control", __name__)  # for steering and watching; none of these routes exists at Google's


def create_app(pace: float = 0.03, delay: float = 0.0) -> Flask:
    """Build the stand-in; `pace` and `delay` in seconds."""
    app = Flask(__name__)
    stand_in = StandIn(pace_seconds=pace, delay_seconds=delay)
    app.extensions["stand_in"] = stand_in
    app.register_blueprint(google)
    app.register_blueprint(control)
    app.register_error_handler(ApiError, _answer_error)
    app.register_error_handler(HTTPException, _answer_http_exception)
    app.wsgi_app = CountedCalls(app.wsgi_app, stand_in.counters)  # type: ignore[method-assign]
    return app


class CountedCalls:
    """Counts a call as in flight until the last byte of its answer is sent."""

    def __init__(self, wsgi_app: "WSGIApplication", counters: Counters) -> None:
        self._wsgi_app = wsgi_app
        self._counters = counters

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Serve a request; only calls of a model count."""
        if environ["REQUEST_METHOD"] != "POST" or not environ["PATH_INFO"].startswith("/v1beta/"):
            return self._wsgi_app(environ, start_response)
        self._counters.enter()
        try:
            return ClosingIterator(self._wsgi_app(environ, start_response), self._counters.leave)
        except BaseException:
            self._counters.leave()
            raise


@google.post("/models/<model>:<method>")
def call_model(model: str, method: str) -> Response:
    """Answer generateContent, streamGenerateContent and countTokens."""
    _require_key()
    if method not in requests.METHODS:
        raise model_not_found(model, method)
    requests.require_model(model, method)
    body = _read_json()
    if method == "countTokens" and isinstance(body, dict):
        body = body.get("generateContentRequest", body.get("generate_content_request", body))
    conversation = read_conversation(model, body)
    stand_in = _stand_in()
    stand_in.remember(_seen(conversation, method))
    if method == "countTokens":
        return _json({"totalTokens": tokens(conversation.characters)})
    try:
        behaviour = stand_in.behaviour_for(conversation.prompt)
    except UnknownBehaviourError as error:
        raise invalid_argument(str(error)) from None
    line = Line(closing=stand_in.closing, released=stand_in.released)
    return serve(compose(conversation, behaviour), behaviour, _wanted(), line)


@google.get("/models")
def list_models() -> Response:
    """List the models by name; any other `gemini-…` works too."""
    _require_key()
    return _json({"models": [requests.describe(model) for model in requests.LISTED]})


@google.get("/models/<model>")
def get_model(model: str) -> Response:
    """Describe one model."""
    _require_key()
    requests.require_model(model)
    return _json(requests.describe(model))


@control.get("/")
def welcome() -> Response:
    """Say what this is."""
    return Response(WELCOME, mimetype="text/plain")


@control.get("/healthz")
def healthz() -> ResponseReturnValue:
    """Say that the process answers."""
    return {"status": "ok"}


@control.get("/sandbox/behaviour")
def show_behaviour() -> ResponseReturnValue:
    """Show what holds for every request."""
    return _stand_in().current_behaviour()


@control.put("/sandbox/behaviour")
def set_behaviour() -> ResponseReturnValue:
    """Treat every request so, until the next PUT or DELETE."""
    fields = request.get_json(force=True)
    if not isinstance(fields, dict):
        raise ApiError(400, "[sandbox] A JSON object of behaviour fields is expected.")
    try:
        _stand_in().behave(read_fields(fields))
    except UnknownBehaviourError as error:
        raise ApiError(400, str(error)) from None
    return _stand_in().current_behaviour()


@control.delete("/sandbox/behaviour")
def reset_behaviour() -> ResponseReturnValue:
    """Answer normally again; hanging requests go on."""
    _stand_in().reset()
    return "", 204


@control.get("/sandbox/requests")
def list_requests() -> ResponseReturnValue:
    """List the last requests, oldest first."""
    return {"requests": _stand_in().requests()}


@control.delete("/sandbox/requests")
def forget_requests() -> ResponseReturnValue:
    """Clear the list and the counts."""
    _stand_in().forget()
    return "", 204


@control.get("/sandbox/stats")
def stats() -> ResponseReturnValue:
    """Give the counts, at once or when they reach what the query asks for."""
    return _stand_in().counters.wait_for(
        calls_at_least=request.args.get("calls_at_least", 0, type=int),
        in_flight_at_least=request.args.get("in_flight_at_least", 0, type=int),
        in_flight_at_most=request.args.get("in_flight_at_most", type=int),
        timeout_seconds=min(request.args.get("timeout", 10.0, type=float), LONGEST_WATCH_SECONDS),
    )


def _stand_in() -> StandIn:
    stand_in: StandIn = current_app.extensions["stand_in"]
    return stand_in


def _require_key() -> None:
    key = request.headers.get("x-goog-api-key") or request.args.get("key")
    if not key:
        raise missing_api_key()
    if key.startswith("invalid"):
        raise invalid_api_key()


def _wanted() -> Format:
    alt = request.args.get("$alt") or request.args.get("alt") or "json"
    streamed = request.path.endswith(":streamGenerateContent")
    return Format(
        streamed=streamed,
        sse=streamed and request.args.get("alt") == "sse",
        enum_numbers="enum-encoding=int" in alt,
    )


def _read_json() -> Any:
    try:
        return json.loads(request.get_data() or b"{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"Invalid JSON payload received. {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"Unexpected token.\n{name}\n^")


def _seen(conversation: Conversation, method: str) -> dict[str, Any]:
    headers = {name: request.headers[name] for name in HEADERS_OF_INTEREST if name in request.headers}
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "model": conversation.model,
        "api": method,
        "contents": conversation.contents,
        "system_instruction": conversation.system_instruction,
        "system_parts": conversation.system_parts,
        "generation_config": conversation.generation_config,
        "headers": headers,
    }


def _json(value: Any) -> Response:
    return Response(to_json(value), content_type=JSON_TYPE)


def _answer_error(error: ApiError) -> Response:
    return error.response(as_array=_wanted().errors_in_array)


def _answer_http_exception(error: HTTPException) -> Response:
    return ApiError(error.code or 500, error.description or error.name).response(as_array=False)
