"""The HTTP side: Google's routes, and those that steer and watch the stand-in.

Source: https://ai.google.dev/api/generate-content.
"""

import json
from typing import Any

from flask import Blueprint, Flask, Response, after_this_request, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from sandbox.gemini.answers import Format, compose, serve
from sandbox.gemini.behaviour import Line, read_fields
from sandbox.gemini.errors import SERVICE, ApiError
from sandbox.gemini.requests import Conversation, read_conversation, require_model
from sandbox.gemini.state import StandIn

LONGEST_WATCH_SECONDS = 60.0

WELCOME = (
    "This is the sandbox's stand-in for the Gemini API (POST /v1beta/models/gemini-3.5-flash:generateContent "
    "with any API key). Steer one request with a directive in its prompt, such as [[sandbox: status=503]] or "
    "[[sandbox: delay=3]], or all requests with PUT /sandbox/behaviour.\n"
)
HEADERS_OF_INTEREST = ("x-request-id", "traceparent", "x-server-timeout")
MIN_DEADLINE_SECONDS = 10.0

google = Blueprint("google", __name__, url_prefix="/v1beta")
control = Blueprint("control", __name__)  # for steering and watching; Google has none of these routes


def create_app(pace: float) -> Flask:
    """Build the stand-in. pace: seconds between the words of a stream."""
    app = Flask(__name__)
    app.extensions["stand_in"] = StandIn(pace_seconds=pace)
    app.register_blueprint(google)
    app.register_blueprint(control)
    app.register_error_handler(ApiError, _answer_error)
    app.register_error_handler(HTTPException, _answer_http_exception)
    return app


@google.before_request
def count_call() -> None:
    """Count a call as in flight until the last byte of its answer is sent."""
    counters = _stand_in().counters
    counters.enter()

    @after_this_request
    def leave_when_sent(response: Response) -> Response:
        response.call_on_close(counters.leave)
        return response


@google.post("/models/<model>:<method>")
def call_model(model: str, method: str) -> Response:
    """Answer generateContent and streamGenerateContent."""
    _require_key()
    _check_deadline()
    require_model(model, method)
    conversation = read_conversation(model, _read_json())
    stand_in = _stand_in()
    stand_in.remember(_seen(conversation))
    behaviour = stand_in.behaviour_for(conversation.prompt)
    line = Line(closing=stand_in.closing, released=stand_in.released)
    return serve(compose(conversation, behaviour), behaviour, _wanted(), line)


@control.get("/")
def welcome() -> Response:
    """Say what this is."""
    return Response(WELCOME, mimetype="text/plain")


@control.get("/healthz")
def healthz() -> ResponseReturnValue:
    """Say that the process answers."""
    return {"status": "ok"}


@control.put("/sandbox/behaviour")
def set_behaviour() -> ResponseReturnValue:
    """Treat every request as the body says, until the next PUT or DELETE."""
    _stand_in().behave(read_fields(request.get_json(force=True)))
    return "", 204


@control.delete("/sandbox/behaviour")
def reset_behaviour() -> ResponseReturnValue:
    """Answer normally again, and release hanging requests."""
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
    """Return the counts, at once or when they reach what the query asks for."""
    return _stand_in().counters.wait_for(
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
        raise ApiError(
            403,
            "Method doesn't allow unregistered callers (callers without established identity). "
            "Please use API Key or other form of API consumer identity to call this API.",
        )
    if key.startswith("invalid"):  # 400, not 401, is Google's answer to an unknown key
        details = {"reason": "API_KEY_INVALID", "domain": "googleapis.com", "metadata": {"service": SERVICE}}
        kind = {"@type": "type.googleapis.com/google.rpc.ErrorInfo"}
        raise ApiError(400, "API key not valid. Please pass a valid API key.", details=[kind | details])


def _check_deadline() -> None:
    """Refuse a deadline that Google finds too short; a longer one is ignored."""
    seconds = request.headers.get("x-server-timeout", MIN_DEADLINE_SECONDS, type=float)
    if seconds < MIN_DEADLINE_SECONDS:
        raise ApiError(
            400,
            f"Manually set deadline {seconds:g}s is too short. Minimum allowed deadline is {MIN_DEADLINE_SECONDS:g}s.",
        )


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
        return json.loads(request.get_data() or b"{}")
    except ValueError as error:
        raise ApiError(400, f"Invalid JSON payload received. {error}") from None


def _seen(conversation: Conversation) -> dict[str, Any]:
    headers = {name: request.headers[name] for name in HEADERS_OF_INTEREST if name in request.headers}
    return {
        "model": conversation.model,
        "contents": conversation.contents,
        "system_instruction": conversation.system_instruction,
        "system_parts": conversation.system_parts,
        "generation_config": conversation.generation_config,
        "headers": headers,
    }


def _answer_error(error: ApiError) -> Response:
    return error.response(as_array=_wanted().errors_in_array)


def _answer_http_exception(error: HTTPException) -> Response:
    return ApiError(error.code or 500, error.description or error.name).response(as_array=False)
