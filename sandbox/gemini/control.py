"""The stand-in's own routes, for steering and watching it; none of them exists at Google's."""

from flask import Blueprint, Response, current_app, request
from flask.typing import ResponseReturnValue

from sandbox.gemini.behaviour import UnknownBehaviourError, read_fields
from sandbox.gemini.errors import ApiError
from sandbox.gemini.state import StandIn

LONGEST_WATCH_SECONDS = 60.0

WELCOME = (
    "This is the sandbox's stand-in for the Gemini API (POST /v1beta/models/gemini-3.5-flash:generateContent "
    "with any API key); steer one request by a directive in its prompt, such as [[sandbox: status=503]] or "
    "[[sandbox: delay=3]], and all of them by PUT /sandbox/behaviour.\n"
)

blp = Blueprint("control", __name__)


def _stand_in() -> StandIn:
    stand_in: StandIn = current_app.extensions["stand_in"]
    return stand_in


@blp.get("/")
def welcome() -> Response:
    """Say what this is."""
    return Response(WELCOME, mimetype="text/plain")


@blp.get("/healthz")
def healthz() -> ResponseReturnValue:
    """Say that the process answers."""
    return {"status": "ok"}


@blp.get("/sandbox/behaviour")
def show_behaviour() -> ResponseReturnValue:
    """Show what holds for every request."""
    return _stand_in().current_behaviour()


@blp.put("/sandbox/behaviour")
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


@blp.delete("/sandbox/behaviour")
def reset_behaviour() -> ResponseReturnValue:
    """Answer normally again; hanging requests go on."""
    _stand_in().reset()
    return "", 204


@blp.get("/sandbox/requests")
def list_requests() -> ResponseReturnValue:
    """List the last requests, oldest first."""
    return {"requests": _stand_in().requests()}


@blp.delete("/sandbox/requests")
def forget_requests() -> ResponseReturnValue:
    """Clear the list and the counts."""
    _stand_in().forget()
    return "", 204


@blp.get("/sandbox/stats")
def stats() -> ResponseReturnValue:
    """Give the counts, at once or when they reach what the query asks for."""
    return _stand_in().counters.wait_for(
        calls_at_least=request.args.get("calls_at_least", 0, type=int),
        in_flight_at_least=request.args.get("in_flight_at_least", 0, type=int),
        in_flight_at_most=request.args.get("in_flight_at_most", type=int),
        timeout_seconds=min(request.args.get("timeout", 10.0, type=float), LONGEST_WATCH_SECONDS),
    )
