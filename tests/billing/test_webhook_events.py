"""An event is noted and answered first, and applied afterwards, by its task or by a later sweep."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from flask import Flask
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.billing import tasks, webhook
from app.core.db import db
from app.core.transactions import transaction
from app.integrations.stripe import RemoteSubscription, parse_subscription
from app.schedule import beat_schedule
from sandbox.stack.processes import wait_until
from sandbox.stand_ins import RunningStandIn
from tests.billing.conftest import Shop, buy_another, delete_customer
from tests.people import all_at_once
from tests.rooms import somebody_waits_for_a_lock

HOUR_SECONDS = 60 * 60
DAY_SECONDS = 24 * HOUR_SECONDS


@pytest.fixture
def bought(user: Any, shop: Shop) -> str:
    """The id of an event that makes the user Pro."""
    shop.buy(user)
    return shop.event("invoice.paid")


def test_the_webhook_does_not_ask_stripe_and_the_task_applies_the_event(
    bought: str, user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    asked = len(stripe.requests())
    assert shop.note(bought).status_code == 200
    assert len(stripe.requests()) == asked
    assert shop.pending() == [bought]
    assert user.get("/user/me").json["tier"] == "basic"
    assert shop.work() == [bought]
    assert shop.pending() == []
    assert user.get("/user/me").json["tier"] == "pro"


def test_an_event_that_comes_again_before_it_is_applied_is_queued_again(bought: str, user: Any, shop: Shop) -> None:
    assert shop.note(bought).status_code == 200
    shop.redis.flushdb()  # its task is lost
    assert shop.note(bought).status_code == 200
    assert len(shop.rows("stripe_events")) == 1
    assert shop.work() == [bought]
    assert user.get("/user/me").json["tier"] == "pro"


def test_an_event_that_was_applied_queues_nothing_when_it_comes_again(bought: str, shop: Shop) -> None:
    shop.deliver(bought)
    assert shop.note(bought).status_code == 200
    assert shop.work() == []


def test_a_task_that_runs_twice_asks_stripe_once(bought: str, shop: Shop, stripe: RunningStandIn) -> None:
    shop.note(bought)
    shop.note(bought)
    asked = len(stripe.requests())
    assert shop.work() == [bought, bought]
    assert len(stripe.requests()) == asked + 1


def test_webhooks_are_counted_by_type_and_result(
    bought: str, shop: Shop, make_billing_app: Callable[..., Flask]
) -> None:
    def counted(event: str, result: str) -> float:
        return REGISTRY.get_sample_value("stripe_webhooks_total", {"type": event, "result": result}) or 0

    away = make_billing_app(database_url="postgresql://127.0.0.1:1/nothing").test_client()
    cases = [
        (bought, None, 200, ("invoice.paid", "taken")),
        (shop.event("invoice.payment_succeeded"), None, 200, ("(other)", "ignored")),
        (bought, away, 503, ("invoice.paid", "failed")),
    ]
    for event_id, client, status, labels in cases:
        before = counted(*labels)
        assert shop.note(event_id, client).status_code == status
        assert counted(*labels) == before + 1


def test_an_event_whose_task_was_lost_is_applied_by_the_sweep(bought: str, user: Any, shop: Shop) -> None:
    shop.note(bought)
    shop.redis.flushdb()
    shop.sweep(seconds_later=20)  # its task may still run
    assert shop.pending() == [bought]
    shop.sweep(seconds_later=30)
    assert shop.pending() == []
    assert user.get("/user/me").json["tier"] == "pro"


def test_a_sweep_ends_when_postgresql_is_gone(bought: str, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the other events would wait for it too."""
    tried = []

    def fail(event_id: str, **_: Any) -> None:
        tried.append(event_id)
        raise PoolTimeoutError

    for event_id in (bought, shop.event("checkout.session.completed")):
        shop.note(event_id)
    monkeypatch.setattr(webhook, "apply_event", fail)
    with pytest.raises(PoolTimeoutError):
        shop.sweep()
    assert len(tried) == 1


def test_the_sweep_that_beat_queues_applies_events(bought: str, user: Any, shop: Shop) -> None:
    shop.note(bought)
    shop.execute("UPDATE stripe_events SET due_at = now()")
    celery = shop.app.extensions["celery"]
    entry = beat_schedule(shop.app.extensions["settings"])["billing.sweep_events"]
    assert (entry["task"], entry["schedule"]) == (tasks.sweep_events.name, 60)
    celery.tasks[entry["task"]]()
    assert user.get("/user/me").json["tier"] == "pro"


def test_an_event_is_accepted_while_redis_is_unavailable(
    bought: str, user: Any, shop: Shop, make_billing_app: Callable[..., Flask]
) -> None:
    without_redis = make_billing_app(redis_url="redis://127.0.0.1:1/0")
    assert shop.note(bought, without_redis.test_client()).status_code == 200
    assert (shop.pending(), shop.work()) == ([bought], [])
    shop.sweep()
    assert user.get("/user/me").json["tier"] == "pro"


def test_an_event_that_fails_is_tried_again_after_longer_and_longer_pauses(
    bought: str, shop: Shop, stripe: RunningStandIn
) -> None:
    shop.note(bought)
    stripe.behave(path="/v1/subscriptions", status=400)
    tried = []
    for seconds in range(0, 5 * 60 * 60, 60):  # the pauses double from a minute to an hour
        asked = len(stripe.requests())
        shop.sweep(seconds_later=seconds)
        if len(stripe.requests()) > asked:
            tried.append(seconds)
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert tried[0] <= 60
    assert pauses == sorted(pauses)
    assert pauses[-1] == 60 * 60
    assert shop.pending() == [bought]


def test_the_sweep_stops_when_stripe_does_not_answer_and_the_next_one_goes_on(
    make_user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    users = [make_user() for _ in range(5)]
    for user in users:
        shop.buy(user)
    paid = [event["id"] for event in stripe.events("invoice.paid")]
    for event_id in paid:
        shop.note(event_id)
    stripe.behave(path="/v1/subscriptions", status=503)
    asked = len(stripe.requests())
    shop.sweep(seconds_later=30)
    assert len(stripe.requests()) == asked + 3 * 2  # three events, each with the SDK's retry
    stripe.behave()
    shop.sweep(seconds_later=31)
    assert shop.pending() == sorted(paid[:3])  # the other two came first
    shop.sweep(seconds_later=90)
    assert [user.get("/user/me").json["tier"] for user in users] == ["pro"] * 5


def test_a_sweep_skips_events_that_another_sweep_has_taken(make_user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    """While Stripe is slow, a sweep takes longer than beat waits before the next one."""
    for user in [make_user() for _ in range(3)]:
        shop.buy(user)
    first, taken, last = [event["id"] for event in stripe.events("invoice.paid")]
    for event_id in (first, taken, last):
        shop.note(event_id)
    asked = len(stripe.requests())
    stripe.behave(path="/v1/subscriptions", hold=True, times=1)

    def take_one() -> None:
        stripe.wait_held()
        shop.execute("UPDATE stripe_events SET due_at = now() + interval '1 hour' WHERE id = :id", id=taken)
        stripe.behave()

    all_at_once([lambda: shop.sweep(seconds_later=30), take_one], retry=False)
    assert shop.pending() == [taken]
    assert len(stripe.requests()) == asked + 2


def test_only_one_of_two_that_take_one_event_asks_stripe(bought: str, shop: Shop, stripe: RunningStandIn) -> None:
    shop.note(bought)
    asked = len(stripe.requests())
    with ThreadPoolExecutor(1) as pool:
        with shop.app.app_context(), transaction():
            db.session.execute(text("UPDATE stripe_events SET due_at = now() + interval '1 hour'"))
            other = pool.submit(shop.sweep)
            assert wait_until(somebody_waits_for_a_lock, seconds=10)
        other.result(20)
    assert len(stripe.requests()) == asked


def test_an_event_that_stripe_refuses_does_not_block_others(make_user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    for user in [make_user() for _ in range(5)]:
        shop.buy(user)
    paid = [event["id"] for event in stripe.events("invoice.paid")]
    for event_id in paid:
        shop.note(event_id)
    stripe.behave(path="/v1/subscriptions", status=400, times=4)
    shop.sweep()
    assert shop.pending() == sorted(paid[:4])


def test_an_event_with_an_unexpected_fault_does_not_block_others(
    make_user: Any, shop: Shop, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, a subscription has a shape that this version does not know."""
    users = [make_user() for _ in range(2)]
    odd, _ = [shop.buy(user) for user in users]

    def parse(source: Any) -> RemoteSubscription:
        if source.id == odd:
            raise KeyError("current_period_end")
        return parse_subscription(source)

    monkeypatch.setattr("app.integrations.stripe.parse_subscription", parse)
    faulty, sound = [event["id"] for event in shop.stripe.events("invoice.paid")]
    for event_id in (faulty, sound):
        shop.note(event_id)
    shop.sweep()
    assert shop.pending() == [faulty]
    assert users[1].get("/user/me").json["tier"] == "pro"
    assert f"{faulty} could not be applied" in caplog.text


def test_an_event_is_given_up_after_three_days_and_accepted_when_it_is_sent_again(
    bought: str, user: Any, shop: Shop, stripe: RunningStandIn, caplog: Any
) -> None:
    stripe.behave(path="/v1/subscriptions", status=400)
    shop.deliver(bought)
    for hours in (-1, 1):  # before the three days are over, and after: the last attempt
        shop.sweep(seconds_later=3 * DAY_SECONDS + hours * HOUR_SECONDS)
        assert shop.pending() == [bought]
    shop.sweep(seconds_later=3 * DAY_SECONDS + 2 * HOUR_SECONDS)
    assert shop.rows("stripe_events") == []
    assert f"Gave up on Stripe's event {bought}, which could not be applied" in caplog.text
    stripe.behave()
    assert shop.deliver(bought).status_code == 200
    assert user.get("/user/me").json["tier"] == "pro"


def test_an_event_that_no_worker_ever_tried_is_not_given_up(bought: str, user: Any, shop: Shop) -> None:
    shop.note(bought)
    shop.redis.flushdb()
    shop.sweep(seconds_later=5 * DAY_SECONDS)
    assert (shop.pending(), len(shop.rows("stripe_events"))) == ([], 1)
    assert user.get("/user/me").json["tier"] == "pro"


def test_an_event_that_another_sweep_is_applying_is_not_given_up(
    bought: str, user: Any, shop: Shop, stripe: RunningStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    """After an outage of days there are many old events, and their sweeps overlap."""
    shop.note(bought)
    shop.redis.flushdb()
    stripe.behave(path="/v1/subscriptions", hold=True, times=1)

    def sweep_meanwhile() -> None:
        stripe.wait_held()
        shop.sweep(seconds_later=5 * DAY_SECONDS + 60)
        stripe.behave()

    all_at_once([lambda: shop.sweep(seconds_later=5 * DAY_SECONDS), sweep_meanwhile], retry=False)
    assert (shop.pending(), len(shop.rows("stripe_events"))) == ([], 1)
    assert "Gave up" not in caplog.text
    assert user.get("/user/me").json["tier"] == "pro"


def test_an_event_that_an_earlier_version_has_applied_is_not_due(
    bought: str, shop: Shop, stripe: RunningStandIn
) -> None:
    """The earlier version writes an event together with its effect, and only the columns that it knows."""
    insert = "INSERT INTO stripe_events (id, type, received_at) VALUES (:id, 'invoice.paid', :at)"
    shop.execute(insert, id=bought, at=datetime.now(UTC))
    asked = len(stripe.requests())
    assert shop.note(bought).status_code == 200
    assert shop.work() == shop.pending() == []
    shop.sweep()
    assert len(stripe.requests()) == asked


def test_an_earlier_version_finds_the_subscription_that_an_event_names(user: Any, shop: Shop) -> None:
    """It fetches that one, and takes an event without one as applied. Every change of a subscription has its event."""
    subscription_id = shop.buy(user)
    for kind in ("customer.subscription.created", "customer.subscription.updated", "checkout.session.completed"):
        shop.note(shop.event(kind))
    assert [row["subscription_id"] for row in shop.rows("stripe_events")] == [subscription_id] * 3


def test_an_event_about_one_subscription_updates_all_of_the_customers(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    first, second = shop.subscribe(user), buy_another(stripe)
    stripe.act(first, "cancel")
    shop.deliver(shop.event("customer.subscription.deleted"))
    assert {row["id"]: row["status"] for row in shop.rows()} == {first: "canceled", second: "active"}
    assert user.get("/user/me").json["tier"] == "pro"


def test_an_event_of_a_customer_that_was_deleted_at_stripe_is_not_tried_again(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    shop.subscribe(user)
    delete_customer(stripe, shop.rows("stripe_customers")[0]["stripe_id"])
    stripe.behave(path="/v1/subscriptions", status=400, code="resource_missing")
    shop.deliver(shop.event("customer.subscription.deleted"))
    assert shop.pending() == []
    assert user.get("/user/me").json["tier"] == "basic"
    assert shop.rows("stripe_customers")[0]["deleted_at"] is not None


def test_an_event_waits_for_the_key_of_the_account_that_it_came_from(
    bought: str, user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    """With the key of another account, Stripe does not know the customer."""
    stripe.behave(path="/v1/", status=400, code="resource_missing")
    shop.deliver(bought)
    assert shop.pending() == [bought]
    stripe.behave()
    shop.sweep()
    assert shop.pending() == []
    assert user.get("/user/me").json["tier"] == "pro"
