"""The control API under /sandbox, for tests and people; sandbox/README.md lists it. Stripe has nothing like it."""

from typing import Any

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from sandbox.stripe.api import StandIn, error_response, stand_in
from sandbox.stripe.behaviour import Behaviour
from sandbox.stripe.events import shown
from sandbox.stripe.store import TABLES, Json
from sandbox.stripe.wire import StripeError, card_declined, missing_resource, parameter_missing

blueprint = Blueprint("control", __name__, url_prefix="/sandbox")
LONGEST_WAIT_SECONDS = 30.0


def _body() -> Any:
    """Return the body's fields. Raises TypeError if the body is not an object."""
    body = request.get_json(force=True, silent=True) if request.data else {}
    if not isinstance(body, dict):
        raise TypeError("The body is not a JSON object.")
    return body


@blueprint.errorhandler(TypeError)
@blueprint.errorhandler(ValueError)
def refuse(error: Exception) -> ResponseReturnValue:
    """Say what is wrong with a setting."""
    return error_response(StripeError(400, str(error)))


def _timeout() -> float:
    """Return how many seconds a call may wait: `timeout` (default 5), at most LONGEST_WAIT_SECONDS."""
    return min(float(_body().get("timeout", 5)), LONGEST_WAIT_SECONDS)


def _done(here: StandIn, answer: Json) -> Response:
    """Send the events that an action made, save the state, and add the events' ids to the answer."""
    answer = answer | {"events": here.events.flush()}
    here.store.save()
    return jsonify(answer)


@blueprint.put("/behaviour")
def put_behaviour() -> Response:
    """Put a behaviour in force in place of the one before."""
    stand_in().behave(Behaviour(**_body()))
    return jsonify({})


@blueprint.post("/behaviour/wait")
def wait_for_held() -> Response:
    """Wait up to `timeout` seconds (default 5) until a call is on hold."""
    return jsonify({"held": stand_in().behaviour.wait_held(_timeout())})


@blueprint.post("/checkout/<session_id>/<action>")
def checkout(session_id: str, action: str) -> Response:
    """Do one of pay, decline, expire, pay_async, async_succeed and async_fail with a Checkout session."""
    here = stand_in()
    with here.store.lock:
        if action == "decline":  # changes nothing at Stripe: the session stays open
            return _done(here, {"session": here.payments.session(session_id)} | card_declined().body)
        return _done(here, {"session": here.payments.act(session_id, action)})


@blueprint.post("/subscriptions/<subscription_id>/<action>")
def subscription(subscription_id: str, action: str) -> Response:
    """Do an action of `Lifecycle`, with its options as JSON."""
    here = stand_in()
    with here.store.lock:
        return _done(here, {"subscription": here.lifecycle.act(subscription_id, action, _body())})


@blueprint.put("/webhooks")
def put_webhooks() -> Response:
    """Change url, secret, retry_delays."""
    stand_in().sender.configure(_body())
    return jsonify({"configured": True})


@blueprint.post("/webhooks/wait")
def wait_for_webhooks() -> Response:
    """Wait up to `timeout` seconds (default 5) until nothing is left to send."""
    return jsonify({"idle": stand_in().sender.wait_idle(_timeout())})


@blueprint.get("/events")
def events() -> Response:
    """List all events, oldest first, with payload and delivery. `?type=` filters."""
    here, wanted = stand_in(), request.args.getlist("type")
    with here.store.lock:
        records = [shown(record) for record in here.store.table("events").values()]
    return jsonify({"events": [one for one in records if not wanted or one["type"] in wanted]})


@blueprint.post("/events")
def make_event() -> Response:
    """Make an event of any type about `object`, or about the one named by `object_id`. It is not sent."""
    here, body = stand_in(), _body()
    if not body.get("type"):
        raise parameter_missing("type")
    with here.store.lock:
        item = body.get("object") or _object(here, str(body.get("object_id")))
        event = here.events.emit(body["type"], item, api_version=body.get("api_version"))
        record = here.store.table("events")[event["id"]]
        record["delivery"] = "unsent"
        here.store.save()
        return jsonify(shown(record))


def _object(here: StandIn, object_id: str) -> Json:
    for kind in TABLES:
        if object_id in here.store.table(kind):
            return here.store.get(kind, object_id)
    raise missing_resource("object", object_id, "object_id")


@blueprint.get("/events/<event_id>/signed")
def signed(event_id: str) -> Response:
    """Return the payload and headers of an event, for the caller to deliver."""
    here = stand_in()
    with here.store.lock:
        record = here.store.table("events").get(event_id)
    if record is None:
        raise missing_resource("event", event_id)
    return jsonify({"payload": record["payload"], "headers": here.sender.headers(record["payload"])})


@blueprint.get("/requests")
def requests_seen() -> Response:
    """List the calls under /v1, oldest first, without their API keys. `?path=` and `?method=` filter."""
    path, method = request.args.get("path", ""), request.args.get("method", "").upper()
    calls = [
        call for call in list(stand_in().calls) if call["path"].startswith(path) and method in ("", call["method"])
    ]
    return jsonify({"requests": calls})


@blueprint.get("/stats")
def stats() -> Response:
    """Count the objects of every kind, and the calls."""
    here = stand_in()
    with here.store.lock:
        counts = {name: len(rows) for name, rows in here.store.tables.items()}
    return jsonify(counts | {"requests": len(here.calls)})


@blueprint.post("/reset")
def reset() -> Response:
    """Forget everything and return to the initial settings."""
    stand_in().reset()
    return jsonify({"reset": True})


@blueprint.errorhandler(StripeError)
def refused(error: StripeError) -> tuple[Response, int]:
    """Answer errors as under /v1."""
    return jsonify(error.body), error.status
