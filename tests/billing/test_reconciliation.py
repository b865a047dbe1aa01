"""What lost events left wrong is mended by comparing with Stripe."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.billing import tasks
from app.billing.reconciliation import forget_old_events, sync_due
from sandbox.stripe.testing import RunningStandIn
from tests.billing.conftest import Shop


def due(shop: Shop) -> list[Any]:
    return list(shop.run(lambda: sync_due(now=datetime.now(UTC))))


def test_a_purchase_whose_events_were_all_dropped(user: Any, shop: Shop) -> None:
    subscription_id = shop.buy(user)
    assert user.get("/user/me").json["tier"] == "basic"
    (change,) = due(shop)
    assert (change.subscription_id, change.before, change.after) == (subscription_id, None, "active")
    assert user.get("/user/me").json["tier"] == "pro"
    assert due(shop) == []


def test_a_cancellation_whose_event_was_dropped(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    stripe.act(shop.subscribe(user), "cancel")
    assert user.get("/user/me").json["tier"] == "pro"
    assert [(change.before, change.after) for change in due(shop)] == [("active", "canceled")]
    assert user.get("/user/me").json["tier"] == "basic"


def test_what_has_ended_for_good_is_left_alone(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    stripe.act(shop.subscribe(user), "cancel")
    due(shop)
    shop.execute("UPDATE stripe_customers SET session_expires_at = now() - interval '4 days'")
    asked = len(stripe.requests())
    assert due(shop) == []
    assert len(stripe.requests()) == asked


def test_the_task_that_beat_rings(user: Any, shop: Shop) -> None:
    shop.buy(user)
    celery = shop.app.extensions["celery"]
    entry = celery.conf.beat_schedule["billing-sync"]
    assert entry["task"] == tasks.sync.name
    celery.tasks[entry["task"]]()
    assert user.get("/user/me").json["tier"] == "pro"


def test_a_stripe_that_does_not_answer_ends_the_run_and_the_next_one_goes_on(
    make_user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    for user in (make_user(), make_user()):
        shop.buy(user)
    stripe.behave(path="/v1/subscriptions", status=503)
    asked = len(stripe.requests())
    assert due(shop) == []
    assert len(stripe.requests()) == asked + 2  # one customer, one retry
    stripe.behave()
    assert len(due(shop)) == 2


def test_one_customer_that_cannot_be_compared_does_not_keep_the_others_back(
    make_user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    for user in (make_user(), make_user()):
        shop.buy(user)
    stripe.behave(path="/v1/subscriptions", status=400, times=1)
    assert len(due(shop)) == 1


def test_a_customer_deleted_unnoticed_is_basic(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    shop.subscribe(user)
    customer_id = shop.rows("stripe_customers")[0]["stripe_id"]
    stripe_delete(stripe, customer_id)
    stripe.behave(path="/v1/subscriptions", status=400, code="resource_missing", times=1)
    due(shop)
    assert user.get("/user/me").json["tier"] == "basic"
    assert shop.rows("stripe_customers")[0]["deleted_at"] is not None


def test_a_customer_that_stripe_never_saw_keeps_what_he_has(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    """The key may be that of another account: that must not make everybody Basic."""
    shop.subscribe(user)
    stripe.reset()
    stripe.behave(path="/v1/subscriptions", status=400, code="resource_missing")
    assert due(shop) == []
    assert user.get("/user/me").json["tier"] == "pro"


def test_nothing_is_asked_where_there_is_no_key(make_billing_app: Any, user: Any, shop: Shop) -> None:
    shop.buy(user)
    shop.app = make_billing_app(stripe_secret_key="")
    assert due(shop) == []


@pytest.mark.parametrize("name", ["everybody", "id", "mobile"])
def test_the_command_mends_and_tells(name: str, make_user: Any, shop: Shop) -> None:
    user, other = make_user(), make_user()
    subscription_id, second = shop.buy(user), shop.buy(other)
    arguments = {"everybody": [], "id": [user.id], "mobile": [user.mobile]}[name]
    result = shop.app.test_cli_runner().invoke(args=["billing", "sync", *arguments])
    assert result.exit_code == 0, result.output
    assert f"{subscription_id}: unknown -> active" in result.output
    assert (second in result.output) == (name == "everybody")
    assert user.get("/user/me").json["tier"] == "pro"
    again = shop.app.test_cli_runner().invoke(args=["billing", "sync", *arguments])
    assert "mended 0 subscriptions" in again.output


def test_the_command_speaks_json(user: Any, shop: Shop) -> None:
    subscription_id = shop.buy(user)
    result = shop.app.test_cli_runner().invoke(args=["billing", "sync", "--json"])
    told = json.loads(result.output)
    assert told["mended"] == [{"subscription": subscription_id, "before": None, "after": "active"}]


def test_the_command_says_what_is_wrong(shop: Shop, user: Any, stripe: RunningStandIn) -> None:
    run = shop.app.test_cli_runner().invoke
    assert run(args=["billing", "sync", "nobody"]).exit_code == 2
    shop.buy(user)
    stripe.behave(path="/v1/", status=500)
    result = run(args=["billing", "sync"])
    assert result.exit_code == 1
    assert "does not answer" in result.output


def test_old_event_ids_are_thrown_away(user: Any, shop: Shop) -> None:
    shop.subscribe(user)
    kept = len(shop.rows("stripe_events"))
    now = datetime.now(UTC)
    assert shop.run(lambda: forget_old_events(now=now)) == 0
    assert shop.run(lambda: forget_old_events(now=now + timedelta(days=31))) == kept


def stripe_delete(stripe: RunningStandIn, customer_id: str) -> None:
    import stripe as sdk

    client = sdk.StripeClient("sk_test_operator", base_addresses={"api": stripe.url})
    client.v1.customers.delete(customer_id)
