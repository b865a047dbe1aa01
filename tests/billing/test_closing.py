"""A deleted account leaves nothing that could still be paid for."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from app.billing.checkout import close_account
from app.billing.models import StripeCustomer
from app.billing.stripe_connection import PaymentProviderError, stripe_calls
from app.billing.subscriptions import copy_subscriptions, end_customer
from app.billing.tier import export_subscriptions
from app.core.db import db
from app.core.errors import ServiceUnavailable
from app.integrations.stripe import MissingAtStripe, Payments
from sandbox.stand_ins import RunningStandIn
from tests.billing.conftest import Shop, buy_another, delete_customer


def close(shop: Shop, user: Any) -> None:
    shop.run(lambda: close_account(UUID(user.id), now=datetime.now(UTC)))


def test_closing_an_account_cancels_its_subscription_at_stripe(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    subscription_id = shop.subscribe(user)
    close(shop, user)
    assert stripe.events("customer.subscription.deleted")[0]["event"]["data"]["object"]["id"] == subscription_id
    assert [row["status"] for row in shop.rows()] == ["canceled"]


def test_closing_an_account_expires_its_open_session(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    user.post("/subscribe/pro")
    close(shop, user)
    assert len(stripe.events("checkout.session.expired")) == 1


def test_closing_an_account_without_a_customer_asks_no_stripe(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    stripe.behave(path="/v1/", status=500)
    close(shop, user)
    assert stripe.requests() == []


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ({"status": 500}, ServiceUnavailable),
        ({"drop": True}, ServiceUnavailable),
        ({"status": 400}, PaymentProviderError),
    ],
)
def test_a_failure_at_stripe_leaves_everything_as_it_was(
    behaviour: dict[str, Any], error: type[Exception], user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    shop.subscribe(user)
    before = shop.rows(), shop.rows("stripe_customers")
    stripe.behave(path="/v1/subscriptions", **behaviour)
    with pytest.raises(error):
        close(shop, user)
    assert (shop.rows(), shop.rows("stripe_customers")) == before
    assert user.get("/user/me").json["tier"] == "pro"
    stripe.behave()
    close(shop, user)
    assert user.get("/user/me").json["tier"] == "basic"


def test_a_subscription_that_has_ended_does_not_prevent_closing(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    stripe.act(shop.subscribe(user), "cancel")
    close(shop, user)
    assert [row["status"] for row in shop.rows()] == ["canceled"]


def test_a_cancellation_with_a_lost_answer_does_not_prevent_closing(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    """The SDK retries, and Stripe answers that a canceled subscription is missing."""
    shop.subscribe(user)
    stripe.behave(path="/v1/subscriptions/", method="DELETE", drop=True, when="after", times=1)
    close(shop, user)
    assert [row["status"] for row in shop.rows()] == ["canceled"]


def test_a_customer_that_was_deleted_at_stripe_does_not_prevent_closing(
    user: Any, shop: Shop, stripe: RunningStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No event of the deletion has come yet, and Stripe lists nothing of the customer."""
    shop.subscribe(user)
    delete_customer(stripe, shop.rows("stripe_customers")[0]["stripe_id"])

    def lists_nothing(*_: Any) -> list[Any]:
        raise MissingAtStripe("InvalidRequestError HTTP 400 resource_missing - customer", "customer")

    monkeypatch.setattr(Payments, "open_sessions", lists_nothing)
    close(shop, user)
    assert [row["status"] for row in shop.rows()] == ["canceled"]


def test_the_rows_that_are_kept_do_not_name_the_user(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    subscription_id = shop.subscribe(user)
    close(shop, user)
    shop.delete_user(user.id)
    (customer,) = shop.rows("stripe_customers")
    assert customer["user_id"] is None
    assert customer["stripe_id"].startswith("cus_")
    assert [row["id"] for row in shop.rows()] == [subscription_id]
    kept = str([shop.rows(table) for table in ("stripe_customers", "subscriptions", "stripe_events")])
    assert user.mobile not in kept
    assert user.mobile not in str(stripe.requests())


def test_a_payment_that_slips_through_is_canceled_when_its_event_comes(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    session_id = user.post("/subscribe/pro").json["session_id"]
    shop.delete_user(user.id)  # as if it had been paid just before its session could be expired
    subscription_id = stripe.pay(session_id)["subscription"]
    shop.deliver_all()
    (ended,) = stripe.events("customer.subscription.deleted")
    assert ended["event"]["data"]["object"]["id"] == subscription_id
    assert [row["status"] for row in shop.rows()] == ["canceled"]


def test_a_user_deleted_after_the_customer_was_read_is_not_charged(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    shop.subscribe(user)
    customer_id = shop.rows("stripe_customers")[0]["id"]

    def copy() -> None:
        with stripe_calls() as payments:
            customer = db.session.get_one(StripeCustomer, customer_id)
            assert customer.user_id is not None
            shop.delete_user(user.id)
            copy_subscriptions(payments, customer_id, now=datetime.now(UTC))

    shop.run(copy)
    assert [row["status"] for row in shop.rows()] == ["canceled"]


def test_the_end_of_a_customer_leaves_other_customers_and_earlier_subscriptions_alone(
    user: Any, make_user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    other = make_user()
    stays = shop.subscribe(other)
    ended_before = shop.subscribe(user)
    stripe.act(ended_before, "cancel")
    shop.deliver_all()
    ends = shop.subscribe(user)
    before = {row["id"]: row for row in shop.rows()}
    customer_id = before[ends]["customer_id"]
    shop.run(lambda: end_customer(customer_id, now=datetime.now(UTC)))
    after = {row["id"]: row for row in shop.rows()}
    assert after[ends]["status"] == "canceled"
    assert (after[stays], after[ended_before]) == (before[stays], before[ended_before])


def test_one_event_cancels_every_subscription_that_slipped_through(
    user: Any, shop: Shop, stripe: RunningStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    both = {shop.buy(user), buy_another(stripe)}
    shop.delete_user(user.id)
    with caplog.at_level("INFO", "app"):
        shop.deliver(shop.event("invoice.paid"))
    assert {row["id"]: row["status"] for row in shop.rows()} == dict.fromkeys(both, "canceled")
    ended = stripe.events("customer.subscription.deleted")
    assert {event["event"]["data"]["object"]["id"] for event in ended} == both
    assert all(f"ownerless_subscription_canceled subscription={one}" in caplog.text for one in both)


def test_a_payment_that_cannot_be_canceled_yet_is_tried_again(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    session_id = user.post("/subscribe/pro").json["session_id"]
    shop.delete_user(user.id)
    stripe.pay(session_id)
    event_id = shop.event("invoice.paid")
    stripe.behave(path="/v1/subscriptions/", method="DELETE", status=500)
    assert shop.deliver(event_id).status_code == 200
    assert (shop.pending(), shop.rows()) == ([event_id], [])
    stripe.behave()
    shop.sweep()
    assert shop.pending() == []
    assert len(stripe.events("customer.subscription.deleted")) == 1


def test_the_export_lists_every_subscription(user: Any, shop: Shop, stripe: RunningStandIn, make_user: Any) -> None:
    first = shop.subscribe(user)
    stripe.act(first, "cancel")
    shop.deliver_all()
    second = shop.subscribe(user)
    shop.subscribe(make_user())
    exported = shop.run(lambda: export_subscriptions(UUID(user.id)))
    assert {(one["id"], one["status"]) for one in exported} == {(first, "canceled"), (second, "active")}
    assert exported[0]["created_at"].endswith("Z")
    assert set(exported[0]) == {
        "id",
        "status",
        "price_id",
        "current_period_start",
        "current_period_end",
        "cancel_at_period_end",
        "created_at",
        "ended_at",
    }
