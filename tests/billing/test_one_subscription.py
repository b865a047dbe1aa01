"""Whatever happens, no two subscriptions of one user can both be charged for."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, event

from app.billing.stripe_connection import stripe_calls
from app.billing.subscriptions import copy_subscriptions
from app.core.clock import utc_now
from app.integrations.stripe import MissingAtStripe, Payments
from sandbox.stand_ins import RunningStandIn
from tests.billing.conftest import Shop


def unended(stripe: RunningStandIn, shop: Shop) -> list[str]:
    """Return the subscriptions that could still be charged for. Our copies and Stripe must agree."""
    shop.deliver_all()
    ours = [row["id"] for row in shop.rows() if row["status"] not in {"canceled", "incomplete_expired"}]
    ended = {event["event"]["data"]["object"]["id"] for event in stripe.events("customer.subscription.deleted")}
    assert not ended & set(ours)
    return ours


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("status", ["unpaid", "paused", "incomplete"])
def test_a_subscription_that_could_be_charged_again_ends_before_a_new_one_is_sold(
    status: str, told: bool, user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    old = shop.subscribe(user)
    stripe.act(old, "set", status=status)
    if told:
        shop.deliver_all()
    else:
        shop.execute("DELETE FROM subscriptions")  # as if no event of it had ever come
    opened = user.post("/subscribe/pro")
    assert opened.status_code == 200, opened.text
    assert [row["status"] for row in shop.rows()] == ["canceled"]
    new = stripe.pay(opened.json["session_id"])["subscription"]
    assert unended(stripe, shop) == [new]
    assert user.get("/subscription/status").json["status"] == "active"


def test_a_subscription_that_could_be_charged_again_survives_a_key_of_another_account(
    user: Any, shop: Shop, stripe: RunningStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = shop.subscribe(user)
    stripe.act(old, "set", status="unpaid")
    shop.deliver_all()

    def knows_nobody(*_: Any) -> list[Any]:
        raise MissingAtStripe("InvalidRequestError HTTP 400 resource_missing - customer", "customer")

    with monkeypatch.context() as wrong_key:
        wrong_key.setattr(Payments, "subscriptions", knows_nobody)
        assert user.post("/subscribe/pro").status_code == 502
    new = shop.subscribe(user)
    assert unended(stripe, shop) == [new]


def test_a_pending_first_payment_prevents_another_purchase(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    session_id = user.post("/subscribe/pro").json["session_id"]
    subscription_id = stripe.checkout(session_id, "pay_async")["session"]["subscription"]
    for _ in range(2):
        answer = user.post("/subscribe/pro")
        assert (answer.status_code, answer.json["code"]) == (409, "already_subscribed")
        assert "under way" in answer.json["detail"]
    assert unended(stripe, shop) == [subscription_id]
    stripe.checkout(session_id, "async_succeed")
    assert "under way" not in user.post("/subscribe/pro").json["detail"]
    assert user.get("/user/me").json["tier"] == "pro"


def test_a_user_can_buy_again_after_a_first_payment_failed_late(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    session_id = user.post("/subscribe/pro").json["session_id"]
    stripe.checkout(session_id, "pay_async")
    assert user.post("/subscribe/pro").status_code == 409
    stripe.checkout(session_id, "async_fail")
    assert unended(stripe, shop) == []
    assert shop.buy(user) == unended(stripe, shop)[0]


def test_a_live_subscription_without_any_event_is_found(user: Any, shop: Shop) -> None:
    shop.subscribe(user)
    shop.execute("DELETE FROM subscriptions")
    shop.execute("UPDATE stripe_customers SET session_id = NULL, attempt = attempt + 1")
    assert user.post("/subscribe/pro").status_code == 409
    assert user.get("/user/me").json["tier"] == "pro"


def test_a_slow_failure_beside_an_open_session_opens_no_second_one(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    user.post("/subscription/portal")  # makes the customer
    path = {"path": "/v1/checkout/sessions", "method": "POST", "times": 1}
    stripe.behave(**path, hold=True, status=500)
    slow = replace(user, client=shop.app.test_client())
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(slow.post, "/subscribe/pro")
        stripe.wait_held()
        opened = user.post("/subscribe/pro")
        stripe.behave(**path, status=500)  # the SDK's second try fails as well
        assert (opened.status_code, failing.result(10).status_code) == (200, 503)
    assert user.post("/subscribe/pro").json == opened.json


def test_copies_are_written_in_one_order_whatever_stripe_lists(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    """Two transactions that write a customer's copies in different orders would wait for each other."""
    for _ in range(4):
        stripe.act(shop.subscribe(user), "cancel")
        shop.deliver_all()
    customer_id, written = shop.rows("stripe_customers")[0]["id"], []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("INSERT INTO subscriptions"):
            written.append(parameters["id"])

    def copy_all() -> None:
        with stripe_calls() as payments:
            copy_subscriptions(payments, customer_id, now=utc_now())

    event.listen(Engine, "before_cursor_execute", note)
    try:
        shop.run(copy_all)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert len(written) == 4
    assert written == sorted(written)
