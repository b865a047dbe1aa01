"""The stand-in's parts, and the steps of every call under /v1: key, parameters, idempotency, failures on purpose.

Idempotency keys follow https://docs.stripe.com/api/idempotent_requests. The first answer to a POST with a key, even a
failure, is kept for 24 hours and given again to the same request. A different request with the key is refused. A
request that arrives while the first one is in flight conflicts. Refused parameters are not kept.
"""

import copy
import hashlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, cast

import stripe
from flask import Blueprint, Response, current_app, g, jsonify, request

from sandbox.stripe.behaviour import Behaviour, ConnectionDroppedError, cut
from sandbox.stripe.events import Endpoint, Events, Sender
from sandbox.stripe.lifecycle import Lifecycle, Payments
from sandbox.stripe.store import Json, Store, new_id, now
from sandbox.stripe.wire import Params, StripeError, parameter_missing, parse_form

KEPT_SECONDS = 24 * 3600
REMEMBERED_CALLS = 5_000
TEST_KEY = "sk_test_"

Handler = Callable[..., Json]


class IdempotencyKeys:
    """The keys in use and the answers kept. Stripe has a set of keys for each account; the stand-in has one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._working: dict[str, str] = {}

    def begin(self, key: str, request: str) -> Json | None:
        """Return the kept answer `{status, body}` to this request, or None if the caller must do the work.

        Raises StripeError if the key belongs to another request (400) or the first request is in flight (409).
        After None, the caller must call `finish` or `abandon`.
        """
        with self._store.lock:
            kept = self._store.table("idempotency")
            for old in [one for one, answer in kept.items() if answer["created"] + KEPT_SECONDS <= now()]:
                del kept[old]
            earlier = kept[key]["request"] if key in kept else self._working.get(key, request)
            if earlier != request:
                message = (
                    "Keys for idempotent requests can only be used with the same parameters they were first used with."
                    f" Try using a key other than '{key}' if you meant to execute a different request."
                )
                raise StripeError(400, message, kind="idempotency_error", keep=False)
            if key in self._working:
                message = f"There is currently another in-progress request using this idempotency key: {key}."
                code = "idempotency_key_in_use"
                raise StripeError(409, message, kind="idempotency_error", code=code, keep=False)
            if key not in kept:
                self._working[key] = request
            return kept.get(key)

    def finish(self, key: str, status: int, body: Json) -> None:
        """Keep the answer."""
        with self._store.lock:
            answer = {"request": self._working.pop(key), "status": status, "body": body, "created": now()}
            self._store.table("idempotency")[key] = answer
            self._store.save()

    def abandon(self, key: str) -> None:
        """Free the key if its request has not finished: the next request with the key does the work."""
        with self._store.lock:
            self._working.pop(key, None)


@dataclass
class StandIn:
    """Everything one running stand-in consists of."""

    endpoint: Endpoint
    state_file: Path | None
    store: Store = field(init=False)
    sender: Sender = field(init=False)
    events: Events = field(init=False)
    payments: Payments = field(init=False)
    lifecycle: Lifecycle = field(init=False)
    keys: IdempotencyKeys = field(init=False)
    behaviour: Behaviour = field(default_factory=Behaviour)
    calls: deque[Json] = field(default_factory=lambda: deque(maxlen=REMEMBERED_CALLS))

    def __post_init__(self) -> None:
        self.store = Store(self.state_file)
        self.sender = Sender(self.store, self.endpoint)
        self.events = Events(self.store, self.sender.hand_on)
        self.payments = Payments(self.store, self.events)
        self.lifecycle = Lifecycle(self.store, self.events, self.payments)
        self.keys = IdempotencyKeys(self.store)

    def behave(self, behaviour: Behaviour) -> None:
        """Put a behaviour in force and release every waiting call."""
        earlier, self.behaviour = self.behaviour, behaviour
        earlier.release()

    def reset(self) -> None:
        """Forget everything, the settings of the control API included."""
        self.behave(Behaviour())
        with self.store.lock:
            self.sender.reset()
            self.store.reset()
            self.calls.clear()
            self.store.save()

    def close(self) -> None:
        """Release every hanging call: the process is ending. Safe in a signal handler."""
        self.behaviour.release()


def stand_in() -> StandIn:
    """Return the stand-in that serves the current request."""
    return cast(StandIn, current_app.extensions["stand_in"])


def endpoint(
    blueprint: Blueprint, method: str, rule: str, accepts: type | None, required: tuple[str, ...] = ()
) -> Callable[[Handler], Handler]:
    """Serve a handler at a path of Stripe's API.

    accepts: the `stripe` package's class of the parameters, so that the endpoint accepts exactly those of the pinned
    version; None if it has none. The handler gets the stand-in, the parameters and the path's ids. It runs with the
    store's lock held and returns the object to send.
    """
    known = set(accepts.__annotations__ if accepts else ())

    def register(handler: Handler) -> Handler:
        @wraps(handler)
        def view(**ids: str) -> Response:
            return _answer(handler, known, required, ids)

        blueprint.add_url_rule(rule, f"{method} {rule}".replace(".", "_"), view, methods=[method])
        return handler

    return register


def before_call() -> Response | None:
    """Record a call under /v1 and check its key. Returns the error to answer with, if any."""
    if not request.path.startswith("/v1/"):
        return None
    g.request_id = new_id("req_")
    g.idempotency_key = request.headers.get("Idempotency-Key") if request.method == "POST" else None
    source = request.form if request.method in ("POST", "PUT", "PATCH") else request.args
    try:
        g.params = parse_form(source.items(multi=True))
        stand_in().calls.append(
            {
                "at": now(),
                "method": request.method,
                "path": request.path,
                "params": g.params,
                "idempotency_key": g.idempotency_key,
                "stripe_version": request.headers.get("Stripe-Version"),
                "request_id": g.request_id,
            }
        )
        _check_key()
    except StripeError as error:
        return error_response(error)
    return None


def _check_key() -> None:
    credentials = request.authorization
    key = (credentials.token or credentials.username or "") if credentials else ""
    if not key:
        message = "You did not provide an API key: send it as 'Authorization: Bearer YOUR_SECRET_KEY'."
        raise StripeError(401, message, keep=False)
    if not key.startswith(TEST_KEY):
        raise StripeError(401, "Invalid API Key provided.", keep=False)  # without even a part of the key


def error_response(error: StripeError) -> Response:
    """Return an error with the headers of every answer."""
    response = respond(error.status, error.body)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="Stripe"'
    return response


def respond(status: int, body: Json) -> Response:
    """Return a JSON answer with the headers that Stripe sends."""
    response = jsonify(body)
    response.status_code = status
    response.headers["Request-Id"] = g.get("request_id") or new_id("req_")
    response.headers["Stripe-Version"] = request.headers.get("Stripe-Version") or stripe.api_version or ""
    return response


def _answer(handler: Handler, known: set[str], required: tuple[str, ...], ids: dict[str, str]) -> Response:
    here, params = stand_in(), g.params
    try:
        here.behaviour.apply("before", request.method, request.path)
        _check_parameters(params, known, required)
        response = _once(here, lambda: handler(here, params, **ids), params)
        here.behaviour.apply("after", request.method, request.path)
    except StripeError as error:
        return error_response(error)
    except ConnectionDroppedError:
        cut(request.environ.get("gunicorn.socket"))
        return respond(500, {})
    return response


def _check_parameters(params: Params, known: set[str], required: tuple[str, ...]) -> None:
    unknown = [name for name in params if name not in known]
    if unknown:
        noun = "parameter" if len(unknown) == 1 else "parameters"
        message = f"Received unknown {noun}: {', '.join(unknown)}"
        raise StripeError(400, message, code="parameter_unknown", param=unknown[0], keep=False)
    for name in required:
        if params.get(name) in (None, "", {}, []):
            raise parameter_missing(name)


def _once(here: StandIn, work: Callable[[], Json], params: Any) -> Response:
    """Do the work unless its idempotency key already has an answer."""
    key = g.idempotency_key
    if not key:
        return respond(*_work(here, work))
    text = json.dumps([request.method, request.path, params], sort_keys=True)
    kept = here.keys.begin(key, hashlib.sha256(text.encode()).hexdigest())
    if kept is not None:
        response = respond(kept["status"], kept["body"])
        response.headers["Idempotent-Replayed"] = "true"
        return response
    try:
        status, body = _work(here, work)
        here.keys.finish(key, status, body)
    finally:
        here.keys.abandon(key)
    return respond(status, body)


def _work(here: StandIn, work: Callable[[], Json]) -> tuple[int, Json]:
    """Do the work. Returns status and body. Raises the errors that no idempotency key keeps."""
    here.behaviour.apply("during", request.method, request.path)
    with here.store.lock:
        try:
            here.behaviour.apply("within", request.method, request.path)
            status, body = 200, copy.deepcopy(work())
        except StripeError as error:
            if not error.keep:
                raise
            status, body = error.status, error.body
        here.events.flush()
        if request.method != "GET":
            here.store.save()
    return status, body
