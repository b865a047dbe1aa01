"""A comparison with Stripe corrects what lost events left wrong."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.account.tasks import delete_ended
from app.billing import tasks
from app.billing.reconciliation import sync_all, sync_due
from app.schedule import beat_schedule
from sandbox.stand_ins import RunningStandIn
from tests.billing.conftest import Shop, delete_customer
from tests.people import all_at_once


def due(shop: Shop) -> list[Any]:
    return list(shop.run(lambda: sync_due(now=datetime.now(UTC))))


def test_a_purchase_whose_events_were_all_lost_is_found(user: Any, shop: Shop, caplog: Any) -> None:
    subscription_id = shop.buy(user)
    assert user.get("/user/me").json["tier"] == "basic"
    (change,) = due(shop)
    assert (change.subscription, change.before, change.after) == (subscription_id, None, "active")
    assert user.get("/user/me").json["tier"] == "pro"
    assert due(shop) == []
    told = [(one.levelname, one.getMessage()) for one in caplog.records if "comparison" in one.getMessage()]
    assert told == [("WARNING", "The comparison with Stripe corrected 1 subscriptions")]


def test_a_purchase_is_found_after_an_outage_longer_than_stripe_resends_events(user: Any, shop: Shop) -> None:
    """No comparison ran for five days, and Stripe resends its events for three."""
    shop.buy(user)
    shop.execute("UPDATE stripe_customers SET session_expires_at = now() - interval '4 days'")
    shop.execute("UPDATE stripe_customers SET checked_at = now() - interval '5 days'")
    assert len(due(shop)) == 1
    assert user.get("/user/me").json["tier"] == "pro"


def test_a_purchase_stays_due_after_an_outage_until_stripe_answers(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    """The first comparison after the outage may find no network yet."""
    shop.buy(user)
    shop.execute("UPDATE stripe_customers SET session_expires_at = now() - interval '4 days'")
    shop.execute("UPDATE stripe_customers SET checked_at = now() - interval '5 days'")
    stripe.behave(path="/v1/subscriptions", status=503)
    assert due(shop) == []
    stripe.behave()
    assert len(due(shop)) == 1
    assert user.get("/user/me").json["tier"] == "pro"


def test_a_cancellation_whose_event_was_lost_is_found(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    stripe.act(shop.subscribe(user), "cancel")
    shop.execute("UPDATE stripe_customers SET session_expires_at = now() - interval '40 days'")  # long after it began
    assert user.get("/user/me").json["tier"] == "pro"
    assert [(change.before, change.after) for change in due(shop)] == [("active", "canceled")]
    assert user.get("/user/me").json["tier"] == "basic"


def test_a_subscription_that_has_ended_is_not_compared_again(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    stripe.act(shop.subscribe(user), "cancel")
    due(shop)
    shop.execute("UPDATE stripe_customers SET session_expires_at = now() - interval '4 days'")
    asked = len(stripe.requests())
    assert due(shop) == []
    assert len(stripe.requests()) == asked


def test_an_outage_changes_only_ended_sessions_that_were_due(
    user: Any, make_user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    for person in (user, make_user(), make_user()):
        assert person.post("/subscribe/pro").status_code == 200
    ended, _, done = (row["id"] for row in shop.rows("stripe_customers"))
    ago = "UPDATE stripe_customers SET session_expires_at = now() - make_interval(days => :days) WHERE id = :id"
    shop.execute(ago, days=1, id=ended)
    shop.execute(ago, days=40, id=done)
    before = {row["id"]: row["session_expires_at"] for row in shop.rows("stripe_customers")}
    stripe.behave(path="/v1/subscriptions", status=503)
    assert due(shop) == []
    after = {row["id"]: row["session_expires_at"] for row in shop.rows("stripe_customers")}
    assert {name for name in before if before[name] != after[name]} == {ended}


def test_all_customers_are_compared_unless_stripe_lacks_them_and_they_have_nothing_live(
    user: Any, make_user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    never_made, gone, gone_with_nothing = make_user(), make_user(), make_user()
    stripe.behave(path="/v1/customers", status=500)
    never_made.post("/subscribe/pro")
    stripe.behave()
    gone_with_nothing.post("/subscription/portal")
    for payer in (user, gone):
        shop.subscribe(payer)
    for person in (gone, gone_with_nothing):
        shop.execute("UPDATE stripe_customers SET deleted_at = now() WHERE user_id = :id", id=person.id)
    found = shop.run(lambda: sync_all(None, now=datetime.now(UTC)))
    assert (found.compared, found.failed, found.left) == (2, [], 0)


def test_the_task_that_beat_queues_compares_with_stripe(user: Any, shop: Shop) -> None:
    shop.buy(user)
    celery = shop.app.extensions["celery"]
    entry = beat_schedule(shop.app.extensions["settings"])["billing.sync"]
    assert entry["task"] == tasks.sync.name
    celery.tasks[entry["task"]]()
    assert user.get("/user/me").json["tier"] == "pro"


@pytest.fixture
def buyers(make_user: Any, shop: Shop) -> list[Any]:
    """Five users whose payments no event told of. The last one is due first, and so on."""
    users = [make_user() for _ in range(5)]
    for hours, user in enumerate(users):
        shop.buy(user)
        ago = "UPDATE stripe_customers SET checked_at = now() - make_interval(hours => :hours) WHERE user_id = :id"
        shop.execute(ago, hours=hours, id=user.id)
    return users


def test_a_run_ends_when_stripe_does_not_answer_and_the_next_one_goes_on(
    buyers: list[Any], shop: Shop, stripe: RunningStandIn
) -> None:
    stripe.behave(path="/v1/subscriptions", status=503)
    asked = len(stripe.requests())
    assert due(shop) == []
    assert len(stripe.requests()) == asked + 3 * 2  # three customers, each with the SDK's retry
    tried = [customer_of(shop, user) for user in reversed(buyers)][:3]
    assert shop.compared()[-6:] == [one for one in tried for _ in range(2)]
    stripe.behave()
    assert len(due(shop)) == 5
    assert shop.compared()[-5:-3] == [customer_of(shop, user) for user in reversed(buyers)][3:]


def test_a_worker_that_shuts_down_leaves_the_rest_to_the_next_run(
    buyers: list[Any], shop: Shop, stripe: RunningStandIn, drain: Callable[[], None]
) -> None:
    shop.note(shop.event("invoice.paid"))
    pending, compared, asked = shop.pending(), shop.compared(), len(stripe.requests())
    drain()
    assert due(shop) == []
    shop.sweep()
    assert pending
    assert (shop.pending(), shop.compared(), len(stripe.requests())) == (pending, compared, asked)


@pytest.mark.parametrize("status", [400, 503])
def test_a_customer_that_cannot_be_compared_does_not_hold_up_the_others(
    status: int, buyers: list[Any], shop: Shop, stripe: RunningStandIn
) -> None:
    """Three calls in a row without an answer end a run; refusals do not. The SDK asks twice when the answer is 503."""
    failing = 2 if status == 503 else 3
    stripe.behave(path="/v1/subscriptions", status=status, times=4 if status == 503 else failing)
    assert len(due(shop)) == 5 - failing
    tiers = ["pro"] * (5 - failing) + ["basic"] * failing
    assert [user.get("/user/me").json["tier"] for user in buyers] == tiers
    assert len(due(shop)) == failing


def test_a_run_skips_customers_that_another_run_has_taken(
    buyers: list[Any], shop: Shop, stripe: RunningStandIn
) -> None:
    stripe.behave(path="/v1/subscriptions", hold=True, times=1)

    def second_run() -> Any:
        stripe.wait_held()
        corrected = due(shop)
        stripe.behave()
        return corrected

    first, second = all_at_once([lambda: due(shop), second_run], retry=False)
    assert (len(first), len(second)) == (0, 5)
    order = [customer_of(shop, user) for user in reversed(buyers)]
    assert shop.compared() == [*order, order[0]]  # the one on hold was asked for first, and again by the second run


def test_a_customer_whose_deletion_went_unnoticed_becomes_basic(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    shop.subscribe(user)
    customer_id = shop.rows("stripe_customers")[0]["stripe_id"]
    delete_customer(stripe, customer_id)
    stripe.behave(path="/v1/subscriptions", status=400, code="resource_missing", times=1)
    due(shop)
    assert user.get("/user/me").json["tier"] == "basic"
    assert shop.rows("stripe_customers")[0]["deleted_at"] is not None


def test_a_customer_that_stripe_never_saw_stays_pro(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    """The key may belong to another Stripe account, which must not make everybody Basic."""
    shop.subscribe(user)
    stripe.reset()
    stripe.behave(path="/v1/subscriptions", status=400, code="resource_missing")
    assert due(shop) == []
    assert user.get("/user/me").json["tier"] == "pro"


def test_stripe_is_not_asked_without_a_key(make_billing_app: Any, user: Any, shop: Shop) -> None:
    shop.buy(user)
    shop.app = make_billing_app(stripe_secret_key="")
    assert due(shop) == []


def test_old_event_ids_are_deleted(user: Any, shop: Shop) -> None:
    shop.subscribe(user)
    kept = len(shop.rows("stripe_events"))
    now = datetime.now(UTC)
    assert shop.run(lambda: delete_ended(now=now + timedelta(days=29))["Stripe events"]) == 0
    assert shop.run(lambda: delete_ended(now=now + timedelta(days=31))["Stripe events"]) == kept


def test_one_sweep_deletes_more_than_a_batch_of_old_event_ids_while_it_has_time(
    user: Any, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.account.tasks.ENDED_BATCH", 2)
    shop.subscribe(user)
    kept = shop.rows("stripe_events")
    shop.execute(
        "INSERT INTO stripe_events (id, type, received_at)"
        " SELECT 'evt_old_' || number, 'invoice.paid', now() - interval '31 days' FROM generate_series(1, 7) AS number"
    )
    with monkeypatch.context() as patch:
        patch.setattr("app.account.tasks.RUN_SECONDS", 0)
        assert shop.run(lambda: delete_ended(now=datetime.now(UTC))["Stripe events"]) == 2
    assert shop.run(lambda: delete_ended(now=datetime.now(UTC))["Stripe events"]) == 5
    assert shop.rows("stripe_events") == kept


def customer_of(shop: Shop, user: Any) -> str:
    return next(str(row["stripe_id"]) for row in shop.rows("stripe_customers") if str(row["user_id"]) == user.id)
