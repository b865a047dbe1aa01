"""Events that come twice, late, in any order or at once always end in what Stripe says."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import pytest

from app.core.db import db
from sandbox.stack.processes import wait_until
from sandbox.stand_ins import RunningStandIn
from tests.billing.conftest import Shop
from tests.people import all_at_once

FIRST_THREE = ("checkout.session.completed", "customer.subscription.created", "invoice.paid")


@pytest.mark.parametrize("order", list(itertools.permutations(FIRST_THREE)))
def test_the_first_events_give_pro_in_any_order_and_twice_each(
    order: tuple[str, ...], user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    subscription_id = shop.buy(user)
    deliveries = [shop.event(kind) for kind in order for _ in range(2)]
    asked = len(stripe.requests())
    for event_id in deliveries:
        assert shop.deliver(event_id).status_code == 200
    assert user.get("/subscription/status").json["status"] == "active"
    assert user.get("/user/me").json["tier"] == "pro"
    (row,) = shop.rows()
    assert (row["id"], row["status"], row["price_id"]) == (subscription_id, "active", "price_pro")
    assert len(shop.rows("stripe_events")) == 3
    calls = [(call["method"], call["path"]) for call in stripe.requests()[asked:]]
    assert calls == [("GET", "/v1/subscriptions")] * 3  # a duplicate asks Stripe nothing


def test_events_of_a_subscription_end_in_its_state_in_any_order(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    subscription_id = shop.buy(user)
    stripe.act(subscription_id, "fail_payment")
    stripe.act(subscription_id, "recover")
    stripe.act(subscription_id, "cancel_at_period_end")
    events = [event["id"] for event in stripe.events()]
    for event_id in [*reversed(events), *events]:
        assert shop.deliver(event_id).status_code == 200
    told = user.get("/subscription/status").json
    assert (told["status"], told["tier"], told["cancel_at_period_end"]) == ("active", "pro", True)


def test_a_late_update_does_not_revive_a_deleted_subscription(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    subscription_id = shop.buy(user)
    stripe.act(subscription_id, "cancel")
    assert shop.deliver(shop.event("customer.subscription.deleted")).status_code == 200
    assert user.get("/user/me").json["tier"] == "basic"
    late = stripe.events("customer.subscription.updated")[0]
    assert late["event"]["data"]["object"]["status"] == "active"
    assert shop.deliver(late["id"]).status_code == 200
    assert user.get("/user/me").json["tier"] == "basic"
    assert user.get("/subscription/status").json["status"] == "canceled"


def test_a_duplicate_changes_nothing(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    shop.subscribe(user)
    before = shop.rows(), shop.rows("stripe_events")
    shop.deliver_all(again=True)
    assert (shop.rows(), shop.rows("stripe_events")) == before


def test_ten_copies_of_an_event_at_once_take_effect_once(user: Any, shop: Shop) -> None:
    shop.buy(user)
    event_id = shop.event("invoice.paid")
    answers = all_at_once([lambda: shop.deliver(event_id)] * 10, retry=False)
    assert [answer.status_code for answer in answers] == [200] * 10
    assert user.get("/user/me").json["tier"] == "pro"
    assert len(shop.rows("stripe_events")) == len(shop.rows()) == 1


def test_different_events_at_once_end_in_what_stripe_says(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    subscription_id = shop.buy(user)
    stripe.act(subscription_id, "cancel")
    waiting = [event["id"] for event in stripe.events()]
    answers = all_at_once([partial(shop.deliver, event_id) for event_id in waiting], retry=False)
    assert {answer.status_code for answer in answers} == {200}
    assert [row["status"] for row in shop.rows()] == ["canceled"]


def test_a_slow_fetch_never_overwrites_a_later_one(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    """The first delivery reads `active` and is held up before it writes; meanwhile the subscription ends."""
    subscription_id = shop.buy(user)
    stripe.behave(path="/v1/subscriptions", method="GET", when="after", hold=True, times=1)
    early = shop.event("customer.subscription.updated")

    def cancel_meanwhile() -> Any:
        stripe.wait_held()
        stripe.act(subscription_id, "cancel")
        answer = shop.deliver(shop.event("customer.subscription.deleted"))
        assert shop.rows()[0]["status"] == "canceled"
        stripe.behave()
        return answer

    answers = all_at_once([lambda: shop.deliver(early), cancel_meanwhile], retry=False)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(shop.rows("stripe_events")) == 2
    assert shop.rows()[0]["status"] == "canceled"


def test_an_event_of_another_api_version_is_understood(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    subscription_id = shop.buy(user)
    invoice = stripe.events("invoice.paid")[0]["event"]["data"]["object"]
    old = {name: value for name, value in invoice.items() if name != "parent"} | {"subscription": subscription_id}
    event = stripe.make_event("invoice.paid", object=old, api_version="2020-08-27")
    assert shop.deliver(event["id"]).status_code == 200
    assert user.get("/user/me").json["tier"] == "pro"


def test_other_types_and_unknown_customers_are_acknowledged(shop: Shop, stripe: RunningStandIn, caplog: Any) -> None:
    product = stripe.make_event("product.created", object={"id": "prod_1", "object": "product"})
    assert shop.deliver(product["id"]).status_code == 200
    stranger = {"id": "sub_1", "object": "subscription", "customer": "cus_stranger"}
    event = stripe.make_event("customer.subscription.updated", object=stranger)
    with caplog.at_level("INFO"):
        assert shop.deliver(event["id"]).status_code == 200
    assert "event_of_unknown_customer" in caplog.text
    assert "cus_stranger" in caplog.text
    assert stripe.requests() == []
    assert shop.rows("stripe_events") == []


def test_an_event_without_a_customer_matches_no_customer_without_a_stripe_id(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    assert user.post("/subscription/portal").status_code == 200
    shop.execute("UPDATE stripe_customers SET stripe_id = NULL")
    event = stripe.make_event("invoice.paid", object={"id": "in_1", "object": "invoice"})
    assert shop.deliver(event["id"]).status_code == 200
    assert shop.rows("stripe_events") == []


@pytest.fixture
def crash_at_commit(shop: Shop) -> Callable[[str], AbstractContextManager[None]]:
    """Make PostgreSQL end the connection in the middle of each transaction that inserts into a table."""

    @contextmanager
    def crash(table: str) -> Iterator[None]:
        shop.execute(
            "CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
        )
        shop.execute(
            f"CREATE CONSTRAINT TRIGGER crash AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION crash()"
        )
        try:
            yield
        finally:
            shop.execute(f"DROP TRIGGER crash ON {table}")
            shop.execute("DROP FUNCTION crash()")

    return crash


def test_a_crash_before_the_event_is_noted_loses_nothing(
    user: Any, shop: Shop, crash_at_commit: Callable[[str], AbstractContextManager[None]]
) -> None:
    """Stripe sends the event again."""
    shop.buy(user)
    event_id = shop.event("invoice.paid")
    with crash_at_commit("stripe_events"):
        answer = shop.deliver(event_id)
    assert (answer.status_code, answer.json["code"]) == (503, "service_unavailable")
    assert shop.rows() == shop.rows("stripe_events") == []
    assert user.get("/user/me").json["tier"] == "basic"
    assert shop.deliver(event_id).status_code == 200
    assert user.get("/user/me").json["tier"] == "pro"


@pytest.mark.parametrize("sent_again", [True, False])
def test_a_crash_while_the_event_is_applied_loses_nothing(
    sent_again: bool, user: Any, shop: Shop, crash_at_commit: Callable[[str], AbstractContextManager[None]]
) -> None:
    shop.buy(user)
    event_id = shop.event("invoice.paid")
    with crash_at_commit("subscriptions"):
        assert shop.deliver(event_id).status_code == 200
    assert (shop.pending(), shop.rows()) == ([event_id], [])
    assert user.get("/user/me").json["tier"] == "basic"
    if sent_again:
        assert shop.deliver(event_id).status_code == 200
    else:
        shop.sweep()
    assert shop.pending() == []
    assert user.get("/user/me").json["tier"] == "pro"


def test_no_connection_is_held_while_stripe_is_asked(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    shop.buy(user)
    stripe.behave(path="/v1/subscriptions", hold=True, times=1)
    event_id = shop.event("invoice.paid")
    answer, held = all_at_once([lambda: shop.deliver(event_id), lambda: connections_in_use(shop, stripe)], retry=False)
    assert (answer.status_code, held) == (200, 0)


def connections_in_use(shop: Shop, stripe: RunningStandIn) -> int:
    """Return how many connections the application's pool has given out while the stand-in keeps a call waiting."""
    stripe.wait_held()
    with shop.app.app_context():
        in_use = int(db.engine.pool.checkedout())  # type: ignore[attr-defined]
    stripe.behave()
    return in_use


def test_webhooks_work_over_a_real_socket(user: Any, shop: Shop, stripe: RunningStandIn, live_url: str) -> None:
    stripe.webhooks(url=f"{live_url}/webhook/stripe")
    subscription_id = shop.buy(user)
    stripe.wait_delivered()
    assert wait_until(lambda: shop.work() is not None and not shop.pending(), seconds=20)  # after the answer
    assert user.get("/user/me").json["tier"] == "pro"
    stripe.act(subscription_id, "cancel")
    stripe.wait_delivered()
    assert wait_until(lambda: shop.work() is not None and not shop.pending(), seconds=20)  # after the answer
    assert user.get("/user/me").json["tier"] == "basic"
    assert {event["delivery"] for event in stripe.events()} == {"delivered"}
