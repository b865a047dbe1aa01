"""Stripe declines, errs, hangs or refuses the key: a problem document in time, and nothing half written."""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, text

from app.core.db import db
from app.integrations.stripe import CONNECT_SECONDS, MAX_RETRIES, READ_SECONDS, MissingAtStripe, Payments, RemoteSession
from config import Settings
from sandbox.stand_ins import RunningStandIn
from tests.billing.conftest import KEY, Shop

ROUTES = ("/subscribe/pro", "/subscription/portal")


class Listener(logging.Handler):
    """Keeps whatever is logged, with all attributes of the record."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.heard: list[str] = []
        self.setFormatter(logging.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(f"{self.format(record)} {vars(record)}")


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[str]]:
    """Collect what is logged at any level. Whatever fails, the key must not be in it."""
    listener = Listener()
    names = ("app", "stripe", "urllib3", "requests", "werkzeug")
    levels = {name: logging.getLogger(name).level for name in ("app", "requests")}
    for name in names:
        logging.getLogger(name).addHandler(listener)
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield listener.heard
    for name in names:
        logging.getLogger(name).removeHandler(listener)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    said = "".join(listener.heard)
    assert KEY not in said
    assert "quokka" not in said
    assert not re.search(r"\bsk_", said)


def says(logged: list[str], level: str, sentence: str) -> bool:
    return any(sentence in line and f"'levelname': '{level}'" in line for line in logged)


@pytest.fixture
def impatient(impatient_app: Flask, user: Any) -> Any:
    """The user of an application that waits half a second for Stripe."""
    return replace(user, client=impatient_app.test_client())


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ({"status": 402}, (502, "payment_provider_error")),
        ({"status": 400}, (502, "payment_provider_error")),
        ({"status": 403}, (502, "payment_provider_error")),
        ({"status": 429}, (503, "service_unavailable")),
        ({"status": 500}, (503, "service_unavailable")),
        ({"status": 503}, (503, "service_unavailable")),
        ({"drop": True}, (503, "service_unavailable")),
    ],
)
def test_an_error_of_stripe_is_a_problem_document_and_nothing_stays_half_written(
    route: str, behaviour: dict[str, Any], expected: tuple[int, str], user: Any, shop: Shop
) -> None:
    shop.stripe.behave(path="/v1/", **behaviour)
    answer = user.post(route)
    assert (answer.status_code, answer.json["code"]) == expected
    assert answer.content_type == "application/problem+json"
    assert ("Retry-After" in answer.headers) == (answer.status_code == 503)
    assert [row["stripe_id"] for row in shop.rows("stripe_customers")] == [None]
    assert shop.rows() == []
    shop.stripe.behave()
    assert user.post(route).status_code == 200
    assert len(shop.stripe.events("customer.created")) == 1


@pytest.mark.parametrize("path", ["/v1/customers", "/v1/checkout/sessions"])
@pytest.mark.parametrize("when", ["during", "within", "after"])
def test_an_error_that_stripe_keeps_under_a_key_does_not_come_back(
    when: str, path: str, user: Any, stripe: RunningStandIn
) -> None:
    stripe.behave(path=path, method="POST", status=500, when=when, times=1 if when == "within" else 2)
    assert user.post("/subscribe/pro").status_code == 503
    assert user.post("/subscribe/pro").status_code == 200


@pytest.mark.parametrize("path", ["/v1/customers", "/v1/checkout/sessions"])
def test_a_call_whose_key_stays_in_use_is_given_up_in_time(path: str, impatient: Any, stripe: RunningStandIn) -> None:
    stripe.behave(path=path, method="POST", status=409)
    assert impatient.post("/subscribe/pro").status_code == 503


def test_a_lost_answer_makes_no_second_session(user: Any, stripe: RunningStandIn) -> None:
    stripe.behave(path="/v1/", method="POST", drop=True, when="after", times=1)
    assert user.post("/subscribe/pro").status_code == 200  # the SDK retries under the same key
    stripe.behave(path="/v1/checkout/sessions", method="POST", drop=True, when="after", times=1)
    assert user.post("/subscribe/pro").status_code == 200
    assert len(stripe.events("customer.created")) == 1
    assert stripe.call("GET", "/stats")["sessions"] == 1


def test_an_ended_session_that_stripe_replays_is_not_handed_out(
    user: Any, stripe: RunningStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer is lost, and comes again a day later: https://docs.stripe.com/api/idempotent_requests"""
    create = Payments.create_session

    def create_yesterday(payments: Payments, *, key: str, **params: Any) -> RemoteSession:
        session = create(payments, key=key, **params)
        ended_at = session.expires_at - timedelta(days=1, minutes=5)
        return replace(session, expires_at=ended_at) if key.endswith("-1") else session

    monkeypatch.setattr(Payments, "create_session", create_yesterday)
    opened = user.post("/subscribe/pro")
    assert opened.status_code == 200
    assert stripe.requests("/v1/checkout/sessions", "POST")[-1]["idempotency_key"].endswith("-2")
    assert user.post("/subscribe/pro").json == opened.json


def test_a_price_that_changes_after_a_lost_answer_is_sold_at_once(
    user: Any, stripe: RunningStandIn, make_billing_app: Callable[..., Flask]
) -> None:
    """Stripe refuses the lost answer's key with another price, so another key is used."""
    stripe.behave(path="/v1/checkout/sessions", method="POST", drop=True, when="after", times=2)
    assert user.post("/subscribe/pro").status_code == 503
    dearer = make_billing_app(stripe_pro_price_id="price_dearer")
    assert replace(user, client=dearer.test_client()).post("/subscribe/pro").status_code == 200
    assert stripe.requests("/v1/checkout/sessions", "POST")[-1]["params"]["line_items"][0]["price"] == "price_dearer"


@pytest.mark.parametrize("route", ROUTES)
def test_a_hanging_stripe_is_given_up_in_time(
    route: str, impatient: Any, user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    stripe.behave(path="/v1/", hang=True)
    began = time.monotonic()
    answer = impatient.post(route)
    assert (answer.status_code, answer.json["code"]) == (503, "service_unavailable")
    assert time.monotonic() - began < READ_SECONDS  # given up before any read timed out
    stripe.behave()
    assert user.post(route).status_code == 200
    assert len(stripe.events("customer.created")) == 1


def test_several_slow_calls_are_bounded_together(impatient: Any, stripe: RunningStandIn) -> None:
    stripe.behave(path="/v1/", delay=0.4)
    assert impatient.post("/subscribe/pro").status_code == 503


def test_the_bounds_in_production_stay_below_fifteen_seconds() -> None:
    most = max(bound.le for bound in Settings.model_fields["stripe_timeout"].metadata if hasattr(bound, "le"))
    pause_seconds = 0.5  # the SDK's before its first retry
    assert most + MAX_RETRIES * (pause_seconds + CONNECT_SECONDS) < 15


def test_an_unreachable_stripe_is_503(make_billing_app: Callable[..., Flask], user: Any, logged: list[str]) -> None:
    nowhere = make_billing_app(stripe_api_base="http://127.0.0.1:1")
    answer = replace(user, client=nowhere.test_client()).post("/subscribe/pro")
    assert (answer.status_code, answer.json["code"]) == (503, "service_unavailable")
    assert says(logged, "WARNING", "Stripe did not answer a call: APIConnectionError")
    assert not says(logged, "WARNING", "HTTP None")


def test_a_bad_key_is_told_to_the_operator_and_not_to_the_client(
    make_billing_app: Callable[..., Flask], user: Any, logged: list[str]
) -> None:
    wrong = make_billing_app(stripe_secret_key="wrong_key_of_somebody_quokka")
    answer = replace(user, client=wrong.test_client()).post("/subscribe/pro")
    assert (answer.status_code, answer.json["code"]) == (502, "payment_provider_error")
    assert "KEY" not in answer.text
    assert says(logged, "ERROR", "Stripe refuses STRIPE_SECRET_KEY")


@pytest.mark.parametrize("missing", ["stripe_secret_key", "stripe_pro_price_id"])
def test_the_answer_names_a_missing_setting(
    missing: str, make_billing_app: Callable[..., Flask], user: Any, shop: Shop
) -> None:
    client = make_billing_app(**{missing: ""}).test_client()
    answer = replace(user, client=client).post("/subscribe/pro")
    assert (answer.status_code, answer.json["code"]) == (503, "service_unavailable")
    assert missing.upper() in answer.json["detail"]
    assert replace(user, client=client).get("/subscription/status").status_code == 200


def test_a_price_that_stripe_does_not_know_is_502(
    make_billing_app: Callable[..., Flask], user: Any, logged: list[str]
) -> None:
    client = make_billing_app(stripe_pro_price_id="price_missing_1").test_client()
    answer = replace(user, client=client).post("/subscribe/pro")
    assert (answer.status_code, answer.json["code"]) == (502, "payment_provider_error")
    assert says(logged, "ERROR", "Stripe refused a call: ")
    assert user.post("/subscribe/pro").status_code == 200


@pytest.mark.parametrize("behaviour", [{"status": 500}, {"status": 429}, {"drop": True}, {"status": 401}])
def test_an_event_that_cannot_be_looked_up_is_kept_and_applied_later(
    behaviour: dict[str, Any], user: Any, shop: Shop, stripe: RunningStandIn, logged: list[str]
) -> None:
    shop.buy(user)
    event_id = shop.event("invoice.paid")
    stripe.behave(path="/v1/subscriptions", **behaviour)
    assert shop.deliver(event_id).status_code == 200
    assert (shop.pending(), shop.rows()) == ([event_id], [])
    assert says(logged, "WARNING", "Stripe did not answer a call: ") == (behaviour != {"status": 401})
    assert says(logged, "WARNING", f"Stripe's event {event_id} is not applied yet; a sweep will retry it: ")
    assert user.get("/user/me").json["tier"] == "basic"
    stripe.behave()
    shop.sweep()
    assert shop.pending() == []
    assert user.get("/user/me").json["tier"] == "pro"


def test_an_event_is_given_up_in_time_while_stripe_hangs_and_applied_when_it_comes_again(
    impatient_app: Flask, user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    shop.buy(user)
    event_id = shop.event("invoice.paid")
    stripe.behave(path="/v1/subscriptions", hang=True)
    began = time.monotonic()
    assert shop.deliver(event_id, impatient_app.test_client()).status_code == 200
    assert time.monotonic() - began < READ_SECONDS
    assert (shop.pending(), shop.rows()) == ([event_id], [])
    stripe.behave()
    assert shop.deliver(event_id).status_code == 200
    assert shop.pending() == []
    assert user.get("/user/me").json["tier"] == "pro"


def test_a_key_of_another_stripe_account_does_not_replace_a_paying_customer(
    user: Any, shop: Shop, stripe: RunningStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.subscribe(user)

    def knows_nobody(*_: Any, **__: Any) -> str:
        raise MissingAtStripe("InvalidRequestError HTTP 400 resource_missing - customer", "customer")

    with monkeypatch.context() as wrong_key:
        wrong_key.setattr(Payments, "portal_url", knows_nobody)
        assert user.post("/subscription/portal").status_code == 502
    assert user.post("/subscription/portal").status_code == 200
    (customer,) = shop.rows("stripe_customers")
    assert stripe.requests("/v1/billing_portal/sessions", "POST")[-1]["params"]["customer"] == customer["stripe_id"]


def test_a_customer_that_is_deleted_while_it_is_read_is_replaced(user: Any, shop: Shop) -> None:
    assert user.post("/subscription/portal").status_code == 200
    with shop.app.app_context():
        engine = db.engine
    deletions: list[threading.Thread] = []

    def delete() -> None:
        with engine.begin() as another:
            another.execute(text("UPDATE stripe_customers SET deleted_at = now()"))

    def delete_meanwhile(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT stripe_customers") and not deletions:
            deletions.append(threading.Thread(target=delete))
            deletions[0].start()
            deletions[0].join(20)

    event.listen(engine, "after_cursor_execute", delete_meanwhile)
    try:
        assert user.post("/subscription/portal").status_code == 200
    finally:
        event.remove(engine, "after_cursor_execute", delete_meanwhile)
    deletions[0].join(20)
    assert user.post("/subscription/portal").status_code == 200
    assert len(shop.rows("stripe_customers")) == 2
