"""The webhook believes only what Stripe signed for us, just now."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from sandbox.stand_ins import RunningStandIn
from sandbox.stripe.events import sign
from tests.billing.conftest import SECRET, Shop


def refused(answer: Any) -> bool:
    return (answer.status_code, answer.json["code"]) == (400, "invalid_signature")


@pytest.fixture
def bought(user: Any, shop: Shop) -> str:
    """The id of an event that would make the user Pro."""
    shop.buy(user)
    return shop.event("customer.subscription.updated")


def test_a_good_signature_is_accepted(bought: str, shop: Shop, user: Any) -> None:
    answer = shop.deliver(bought)
    assert (answer.status_code, answer.json) == (200, {"received": True})
    assert user.get("/user/me").json["tier"] == "pro"


def test_either_of_two_signatures_is_accepted_while_the_secret_is_rolled(
    bought: str, shop: Shop, stripe: RunningStandIn, user: Any
) -> None:
    """Stripe signs with both secrets then: https://docs.stripe.com/webhooks#verify-manually"""
    payload = stripe.signed(bought)["payload"]
    ours, other = sign(payload, SECRET), sign(payload, "whsec_the_other_one").split(",")[1]
    for signature in (f"{ours},{other}", ours.replace(",", f",{other},")):
        assert shop.post(payload, signature).status_code == 200
    shop.work()
    assert user.get("/user/me").json["tier"] == "pro"


def test_bad_missing_old_and_future_signatures_are_refused(
    bought: str, shop: Shop, stripe: RunningStandIn, user: Any
) -> None:
    signed = stripe.signed(bought)
    payload, good = signed["payload"], signed["headers"]["Stripe-Signature"]
    now = int(time.time())
    for signature in (
        "",
        "t=1",
        "v1=abc",
        f"t={now}",
        "nonsense",
        ",,,=,",
        good[:-1] + ("0" if good[-1] != "0" else "1"),
        good.replace("v1=", "v0="),
        good.replace(f"t={good.split(',')[0][2:]}", f"t={now - 10}"),
        f"t={now},v1=é",
        f"t=x{now},v1=00",
        sign(payload, "whsec_of_somebody_else"),
        sign(payload, SECRET, now - 301),
        sign(payload, SECRET, now + 320),
    ):
        assert refused(shop.post(payload, signature)), signature
    without = shop.app.test_client().post("/webhook/stripe", data=payload.encode())
    assert refused(without)
    assert user.get("/user/me").json["tier"] == "basic"
    assert shop.rows("stripe_events") == []


def test_a_body_changed_by_one_byte_is_refused(bought: str, shop: Shop, stripe: RunningStandIn, caplog: Any) -> None:
    signed = stripe.signed(bought)
    payload, signature = signed["payload"], signed["headers"]["Stripe-Signature"]
    for position in (0, len(payload) // 2, len(payload) - 1):
        changed = payload[:position] + chr(ord(payload[position]) ^ 1) + payload[position + 1 :]
        assert refused(shop.post(changed, signature))
    assert refused(shop.post(payload + " ", signature))
    assert refused(shop.post(json.dumps(json.loads(payload)), signature))
    told = [record for record in caplog.records if record.getMessage().startswith("A webhook was refused: ")]
    assert [record.levelname for record in told] == ["WARNING"] * 5


def test_a_signed_body_that_is_no_event_is_refused(shop: Shop) -> None:
    event = {"id": "evt_1", "object": "event", "type": "invoice.paid", "data": {"object": {}}}
    for body in (
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"{}",
        b"\xff\xfe",
        json.dumps(event | {"id": 7}).encode(),
        json.dumps(event | {"type": None}).encode(),
        json.dumps(event | {"id": "evt 1\x00"}).encode(),
        json.dumps(event | {"data": None}).encode(),
        json.dumps(event | {"data": {"object": [1]}}).encode(),
        json.dumps(event | {"object": "v2.core.event"}).encode(),
        b"[" * 100_000,
    ):
        signature = sign_bytes(body)
        headers = {"Stripe-Signature": signature}
        answer = shop.app.test_client().post("/webhook/stripe", data=body, headers=headers)
        assert refused(answer), body[:60]


def sign_bytes(body: bytes) -> str:
    try:
        return sign(body.decode(), SECRET)
    except UnicodeDecodeError:
        return f"t={int(time.time())},v1=00"


def test_odd_fields_of_a_signed_event_do_no_harm(shop: Shop) -> None:
    for kind, item in (
        ("invoice.paid", {"customer": 7, "parent": "x", "subscription": []}),
        ("invoice.paid", {"customer": {"id": "cus_1"}, "parent": {"subscription_details": 3}}),
        ("checkout.session.completed", {"customer": None, "subscription": None}),
        ("customer.subscription.updated", {"id": None, "customer": "cus_1"}),
        ("customer.deleted", {}),
    ):
        body = json.dumps({"id": "evt_1", "object": "event", "type": kind, "data": {"object": item}})
        assert shop.post(body, sign(body, SECRET)).status_code == 200


@pytest.mark.parametrize("odd", ["x\0", "x\ud800", "x" * 3_000, ""])
def test_ids_that_are_not_stripes_do_no_harm(bought: str, shop: Shop, stripe: RunningStandIn, odd: str) -> None:
    customer = json.loads(stripe.signed(bought)["payload"])["data"]["object"]["customer"]
    for kind, item in (
        ("customer.deleted", {"id": odd}),
        ("invoice.paid", {"customer": odd}),
        ("customer.subscription.updated", {"id": odd, "customer": customer}),
        ("checkout.session.completed", {"customer": customer, "subscription": odd}),
    ):
        body = json.dumps({"id": "evt_odd", "object": "event", "type": kind, "data": {"object": item}})
        assert shop.post(body, sign(body, SECRET)).status_code == 200


def test_without_a_secret_no_event_is_accepted(
    make_billing_app: Callable[..., Flask], bought: str, stripe: RunningStandIn
) -> None:
    app = make_billing_app(stripe_webhook_secret="")
    payload = stripe.signed(bought)["payload"]
    headers = {"Stripe-Signature": sign(payload, "")}
    answer = app.test_client().post("/webhook/stripe", data=payload.encode(), headers=headers)
    assert (answer.status_code, answer.json["code"]) == (503, "service_unavailable")
    assert "STRIPE_WEBHOOK_SECRET" in answer.json["detail"]


def test_an_event_of_up_to_one_mebibyte_is_accepted(shop: Shop) -> None:
    event = {"id": "evt_1", "object": "event", "type": "price.created", "data": {"object": {}}, "padding": ""}
    room = 1024 * 1024 - len(json.dumps(event))
    body = json.dumps(event | {"padding": "x" * room})
    assert len(body) == 1024 * 1024
    assert shop.post(body, sign(body, SECRET)).status_code == 200
    larger = json.dumps(event | {"padding": "x" * (room + 1)})
    answer = shop.post(larger, sign(larger, SECRET))
    assert (answer.status_code, answer.json["code"]) == (413, "body_too_large")


def test_other_routes_still_take_no_more_than_128_kib(user: Any) -> None:
    assert user.post("/chatroom", json={"title": "x" * 200_000}).json["code"] == "body_too_large"


def test_the_signature_is_checked_before_anything_else_happens(bought: str, shop: Shop, stripe: RunningStandIn) -> None:
    asked = len(stripe.requests())
    shop.post(stripe.signed(bought)["payload"], "t=1,v1=00")
    assert len(stripe.requests()) == asked
