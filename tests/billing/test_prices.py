"""Which prices make a subscription Pro."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from uuid_utils.compat import uuid7

from app.billing.subscriptions import values_of
from app.core.clock import utc_now
from app.integrations.stripe import RemoteItem, RemoteSubscription
from sandbox.stand_ins import RunningStandIn
from tests.billing.conftest import Shop


@pytest.fixture
def subscribe_elsewhere(make_billing_app: Callable[..., Flask], shop: Shop) -> Callable[[Any], str]:
    """Subscribe to something else that the same Stripe account sells. Returns the subscription's id."""

    def subscribe(user: Any) -> str:
        other = make_billing_app(stripe_pro_price_id="price_of_something_else")
        return shop.subscribe(replace(user, client=other.test_client()))

    return subscribe


def test_another_price_gives_no_pro_and_is_shown_as_it_is(
    user: Any, shop: Shop, subscribe_elsewhere: Callable[[Any], str]
) -> None:
    subscribe_elsewhere(user)
    assert [(row["status"], row["price_id"]) for row in shop.rows()] == [("active", "price_of_something_else")]
    told = user.get("/subscription/status").json
    assert (told["tier"], told["status"]) == ("basic", "active")
    assert user.get("/user/me").json["tier"] == "basic"


def test_an_unpaid_other_price_has_no_grace_period(
    user: Any, shop: Shop, stripe: RunningStandIn, subscribe_elsewhere: Callable[[Any], str]
) -> None:
    stripe.act(subscribe_elsewhere(user), "set", status="past_due")
    shop.deliver_all()
    told = user.get("/subscription/status").json
    assert (told["tier"], told["status"], told["grace_until"]) == ("basic", "past_due", None)


def test_a_user_has_one_open_session_while_the_price_changes(
    user: Any, shop: Shop, stripe: RunningStandIn, make_billing_app: Callable[..., Flask]
) -> None:
    """Two web processes have different prices, so their idempotency keys differ."""
    user.post("/subscription/portal")  # makes the customer
    elsewhere = replace(user, client=make_billing_app(stripe_pro_price_id="price_new").test_client())
    stripe.behave(path="/v1/checkout/sessions", method="POST", hold=True, times=1)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(elsewhere.post, "/subscribe/pro")
        stripe.wait_held()
        opened = user.post("/subscribe/pro").json
        stripe.behave()
        assert slow.result(10).json == opened
    assert len(stripe.events("checkout.session.expired")) == 1


@pytest.mark.parametrize("status", ["active", "past_due", "unpaid"])
def test_pro_can_be_bought_beside_another_price_which_stays_as_it_is(
    status: str, user: Any, shop: Shop, stripe: RunningStandIn, subscribe_elsewhere: Callable[[Any], str]
) -> None:
    other = subscribe_elsewhere(user)
    stripe.act(other, "set", status=status)
    pro = shop.subscribe(user)
    told = user.get("/subscription/status").json
    assert (told["tier"], told["status"]) == ("pro", "active")
    assert {row["id"]: row["status"] for row in shop.rows()} == {other: status, pro: "active"}
    assert user.post("/subscribe/pro").json["code"] == "already_subscribed"
    stripe.act(pro, "cancel")
    shop.deliver_all()
    assert user.get("/user/me").json["tier"] == "basic"


def test_every_price_of_the_list_counts_and_the_first_is_sold(
    user: Any, shop: Shop, stripe: RunningStandIn, make_billing_app: Callable[..., Flask]
) -> None:
    shop.subscribe(user)  # at price_pro
    dearer = make_billing_app(stripe_pro_price_id="price_dearer, price_pro")
    earlier = replace(user, client=dearer.test_client())
    assert earlier.get("/user/me").json["tier"] == "pro"
    assert earlier.post("/subscribe/pro").json["code"] == "already_subscribed"
    stripe.act(shop.rows()[0]["id"], "cancel")
    shop.deliver_all()
    shop.subscribe(earlier)
    assert sorted(row["price_id"] for row in shop.rows()) == ["price_dearer", "price_pro"]
    assert earlier.get("/user/me").json["tier"] == "pro"
    assert user.get("/user/me").json["tier"] == "basic"  # the dearer price is not in its list


@pytest.mark.parametrize(
    ("prices", "kept"),
    [
        ((), None),
        (("price_a",), "price_a"),
        (("price_a", "price_pro"), "price_pro"),
        (("price_a", "price_b"), "price_a"),
    ],
)
def test_of_several_prices_the_one_that_counts_is_kept(prices: tuple[str, ...], kept: str | None, shop: Shop) -> None:
    now = utc_now()
    items = tuple(RemoteItem(price, now, now) for price in prices)
    remote = RemoteSubscription("sub_1", "active", items, False, now, None)
    customer: UUID = uuid7()
    assert shop.run(lambda: values_of(customer, remote))["price_id"] == kept


def test_the_period_is_that_of_the_price_that_counts(shop: Shop) -> None:
    """With a yearly item beside monthly Pro, the debt dates from the start of the month."""
    now = utc_now()
    yearly = RemoteItem("price_a", now - timedelta(days=200), now + timedelta(days=165))
    monthly = RemoteItem("price_pro", now, now + timedelta(days=30))
    remote = RemoteSubscription("sub_1", "past_due", (yearly, monthly), False, now, None)
    values = shop.run(lambda: values_of(uuid7(), remote))
    assert values["current_period_end"] == now + timedelta(days=30)
    assert values["past_due_since"] == values["current_period_start"] == now
