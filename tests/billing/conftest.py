"""The product with the real Stripe SDK, pointed at the stand-in, and ways to buy, deliver events and read rows."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import redis
import stripe as sdk
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from app.billing.tasks import apply_event
from app.billing.webhook import sweep_events
from app.core.broker import CHORES
from app.core.clock import utc_now
from app.core.db import db
from sandbox.stand_ins import RunningStandIn, running_stripe_stand_in
from sandbox.stripe.events import sign
from tests.conftest import fresh
from tests.queues import arguments_of

SECRET = "whsec_of_the_tests"
KEY = "sk_test_never_to_be_seen_in_a_log_quokka"


@pytest.fixture(scope="session")
def stripe_process() -> Iterator[RunningStandIn]:
    with running_stripe_stand_in(webhook_secret=SECRET) as stand_in:
        yield stand_in


@pytest.fixture
def stripe(stripe_process: RunningStandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningStandIn]:
    """The Stripe stand-in, empty. It sends no webhooks by itself.

    During the test the SDK pauses for a fiftieth of a second before its retry, instead of half a second.
    """
    monkeypatch.setattr(sdk.HTTPClient, "INITIAL_DELAY", 0.02)
    stripe_process.reset()
    yield stripe_process
    stripe_process.behave()


@pytest.fixture(scope="session")
def make_billing_app(
    make_app: Callable[..., Flask], migrated_app: Flask, stripe_process: RunningStandIn
) -> Callable[..., Flask]:
    """Make an application that talks to the stand-in."""

    def make(**overrides: Any) -> Flask:
        settings = {
            "stripe_secret_key": KEY,
            "stripe_pro_price_id": "price_pro",
            "stripe_webhook_secret": SECRET,
            "stripe_api_base": stripe_process.url,
            "stripe_timeout": 12,  # a busy machine may stall for longer than the default
            "frontend_url": "https://app.example.com/",
        }
        return make_app(**(settings | overrides))

    return make


@pytest.fixture(scope="session")
def billing_app(make_billing_app: Callable[..., Flask]) -> Flask:
    return make_billing_app()


@pytest.fixture(scope="session")
def impatient_app(make_billing_app: Callable[..., Flask]) -> Flask:
    """An application that waits at most half a second for Stripe."""
    return make_billing_app(stripe_timeout=0.5)


@pytest.fixture
def app(billing_app: Flask, redis_db: redis.Redis, stripe: RunningStandIn) -> Flask:
    """The application, with nothing in its database, and a Stripe that knows nothing."""
    return fresh(billing_app)


@dataclass
class Shop:
    """What happens between a user, Stripe and the product."""

    app: Flask
    stripe: RunningStandIn
    redis: redis.Redis
    delivered: set[str] = field(default_factory=set)

    def buy(self, user: Any) -> str:
        """Go through Checkout, without delivering any event. Returns the subscription's id."""
        opened = user.post("/subscribe/pro")
        assert opened.status_code == 200, opened.text
        return str(self.stripe.pay(opened.json["session_id"])["subscription"])

    def subscribe(self, user: Any) -> str:
        """Buy, and deliver every event."""
        subscription_id = self.buy(user)
        self.deliver_all()
        return subscription_id

    def deliver(self, event_id: str, client: FlaskClient | None = None) -> TestResponse:
        """Send one event to the webhook as Stripe does, and run the task that it queues as a worker does."""
        answer = self.note(event_id, client)
        self.work(client.application if client else self.app)
        return answer

    def note(self, event_id: str, client: FlaskClient | None = None) -> TestResponse:
        """Send one event to the webhook. The task that it queues waits."""
        signed = self.stripe.signed(event_id)
        return self.post(signed["payload"], signed["headers"]["Stripe-Signature"], client)

    def work(self, app: Flask | None = None) -> list[str]:
        """Run the waiting tasks as a worker does. Returns the ids of the events that were applied or tried."""
        tasks, tried = (app or self.app).extensions["celery"].tasks, []
        while document := self.redis.rpop(CHORES):
            message = json.loads(document)  # type: ignore[arg-type]
            if message["headers"]["task"] == apply_event.name:
                (event_id,) = arguments_of(message)
                tasks[apply_event.name](event_id)
                tried.append(event_id)
        return tried

    def sweep(self, *, seconds_later: float = 30) -> None:
        """Sweep the events as a worker does for beat, this many seconds from now."""
        self.run(lambda: sweep_events(now=utc_now() + timedelta(seconds=seconds_later)))

    def pending(self) -> list[str]:
        """Return the ids of the events that are noted and not yet applied."""
        return [row["id"] for row in self.rows("stripe_events") if row["due_at"] is not None]

    def post(self, payload: str, signature: str, client: FlaskClient | None = None) -> TestResponse:
        client = client or self.app.test_client()
        headers = {"Stripe-Signature": signature, "Content-Type": "application/json; charset=utf-8"}
        return client.post("/webhook/stripe", data=payload.encode(), headers=headers)

    def deliver_all(self, *types: str, again: bool = False) -> None:
        """Deliver every event made so far, in order; `again`: also those that were delivered before."""
        for event in self.stripe.events(*types):
            if event["id"] in self.delivered and not again:
                continue
            answer = self.post(event["payload"], sign(event["payload"], SECRET))
            assert (answer.status_code, answer.json) == (200, {"received": True}), answer.text
            self.work()
            self.delivered.add(event["id"])

    def event(self, kind: str) -> str:
        """Return the id of the latest event of a type."""
        return str(self.stripe.events(kind)[-1]["id"])

    def compared(self) -> list[str]:
        """Return the customers compared with Stripe, in order. All purchases came first, and asked Stripe once each."""
        every = [one for one in self.stripe.requests("/v1/subscriptions", "GET") if one["path"] == "/v1/subscriptions"]
        purchases = len(self.stripe.requests("/v1/checkout/sessions", "POST"))
        return [one["params"]["customer"] for one in every[purchases:]]

    def rows(self, table: str = "subscriptions") -> list[dict[str, Any]]:
        with self.app.app_context():
            found = db.session.execute(text(f"SELECT * FROM {table} ORDER BY id"))
            return [dict(row._mapping) for row in found]

    def run(self, work: Callable[[], Any]) -> Any:
        """Call a use case as a task does."""
        with self.app.app_context():
            return work()

    def execute(self, sql: str, **values: Any) -> None:
        with self.app.app_context():
            db.session.execute(text(sql), values)
            db.session.commit()

    def delete_user(self, user_id: str) -> None:
        """Delete the user's row, as the account feature does in the end."""
        self.execute("DELETE FROM users WHERE id = :id", id=user_id)


@pytest.fixture
def shop(app: Flask, stripe: RunningStandIn, redis_db: redis.Redis) -> Shop:
    return Shop(app, stripe, redis_db)


@pytest.fixture
def live_url(app: Flask) -> Iterator[str]:
    """Serve the application on a real socket, where the stand-in can send its webhooks."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def operator(stripe: RunningStandIn) -> sdk.StripeClient:
    """Return a client for what somebody does in the Dashboard."""
    return sdk.StripeClient("sk_test_operator", base_addresses={"api": stripe.url})


def delete_customer(stripe: RunningStandIn, customer_id: str) -> None:
    operator(stripe).v1.customers.delete(customer_id)


def buy_another(stripe: RunningStandIn) -> str:
    """Sell one more subscription like the last one offered, and end neither for it. Returns the new one's id."""
    made = stripe.requests("/v1/checkout/sessions", "POST")[-1]["params"]
    params: Any = {"mode": "subscription", "line_items": [{"price": "price_pro", "quantity": 1}]}
    params |= {name: made[name] for name in ("success_url", "cancel_url", "customer")}
    return str(stripe.pay(operator(stripe).v1.checkout.sessions.create(params).id)["subscription"])
