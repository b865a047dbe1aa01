"""What Stripe's status means for the tier, the status route and the day's prompts."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event

from app.billing.models import Tier
from app.billing.tier import grant_pro, subscription_status, tier_of
from app.core.db import answers_within, db
from app.integrations.stripe import parse_subscription
from sandbox.stand_ins import RunningStandIn
from tests.billing.conftest import Shop
from tests.transactions import undone

NOTHING_YET = {
    "tier": "basic",
    "status": "none",
    "current_period_end": None,
    "cancel_at_period_end": False,
    "grace_until": None,
}
COPY_OF_THE_ONE = (
    "INSERT INTO subscriptions SELECT copy.* FROM subscriptions one, jsonb_populate_record(one, :new) copy"
)


def parsed(moment: str) -> datetime:
    assert moment.endswith("Z")
    return datetime.fromisoformat(moment)


def test_the_status_before_the_first_subscription_is_none(user: Any) -> None:
    assert user.get("/subscription/status").json == NOTHING_YET


@pytest.mark.parametrize(
    ("status", "tier"),
    [
        ("active", "pro"),
        ("trialing", "pro"),
        ("past_due", "pro"),
        ("canceled", "basic"),
        ("unpaid", "basic"),
        ("incomplete", "basic"),
        ("incomplete_expired", "basic"),
        ("paused", "basic"),
    ],
)
def test_every_status_gives_its_tier(status: str, tier: str, user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    subscription_id = shop.subscribe(user)
    stripe.act(subscription_id, "set", status=status)
    shop.deliver_all()
    told = user.get("/subscription/status").json
    assert (told["status"], told["tier"], user.get("/user/me").json["tier"]) == (status, tier, tier)
    assert (told["grace_until"] is not None) == (status == "past_due")
    stripe.act(subscription_id, "set", status="active")
    shop.deliver_all()
    assert user.get("/user/me").json["tier"] == "pro"


def test_grace_is_counted_from_the_start_of_the_unpaid_period(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    subscription_id = shop.subscribe(user)
    start = datetime(2026, 11, 1, 12, tzinfo=UTC)
    stripe.act(subscription_id, "fail_payment", period_start=int(start.timestamp()))
    shop.deliver_all()
    told = user.get("/subscription/status").json
    assert told["status"] == "past_due"
    assert parsed(told["grace_until"]) == start + timedelta(days=3)
    last_moment = start + timedelta(days=3) - timedelta(microseconds=1)
    for now, tier in ((last_moment, Tier.PRO), (start + timedelta(days=3), Tier.BASIC)):
        assert shop.run(partial(tier_of, UUID(user.id), now)) is tier
        assert shop.run(partial(subscription_status, UUID(user.id), now=now)).tier is tier
    stripe.act(subscription_id, "recover")
    shop.deliver_all()
    assert shop.run(lambda: tier_of(UUID(user.id), start + timedelta(days=30))) is Tier.PRO
    assert user.get("/subscription/status").json["grace_until"] is None


def test_nothing_is_owed_for_an_active_subscription_that_is_copied_for_the_first_time(user: Any, shop: Shop) -> None:
    shop.buy(user)
    shop.deliver(shop.event("invoice.paid"))
    told = user.get("/subscription/status").json
    assert (told["status"], told["grace_until"]) == ("active", None)


def test_grace_does_not_restart_with_the_next_unpaid_period(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    subscription_id = shop.subscribe(user)
    first, second = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
    for start in (first, second):
        stripe.act(subscription_id, "set", status="past_due", period_start=int(start.timestamp()))
        shop.deliver_all()
    assert parsed(user.get("/subscription/status").json["grace_until"]) == first + timedelta(days=3)
    stripe.act(subscription_id, "set", status="active")
    shop.deliver_all()
    stripe.act(subscription_id, "set", status="past_due", period_start=int(second.timestamp()))
    shop.deliver_all()
    assert parsed(user.get("/subscription/status").json["grace_until"]) == second + timedelta(days=3)


@pytest.mark.parametrize(
    ("told", "ends"),
    [
        ({"cancel_at_period_end": True, "cancel_at": 1_800_000_000}, True),  # in classic billing mode
        ({"cancel_at_period_end": False, "cancel_at": 1_800_000_000}, True),  # in the flexible one
        ({"cancel_at_period_end": True}, True),
        ({"cancel_at_period_end": False, "cancel_at": None}, False),
        ({"cancel_at_period_end": False, "cancel_at": 1_800_000_001}, False),  # on a day of a later period
    ],
)
def test_both_of_stripes_forms_of_a_planned_end_are_understood(told: dict[str, Any], ends: bool) -> None:
    period = {"current_period_start": 1_797_400_000, "current_period_end": 1_800_000_000}
    items = {"data": [{"price": {"id": "price_pro"}} | period]}
    source = {"id": "sub_1", "status": "active", "created": 1_700_000_000, "items": items} | told
    assert parse_subscription(SimpleNamespace(to_dict=lambda: source)).cancel_at_period_end is ends


def test_a_subscription_canceled_for_the_end_of_its_period_is_pro_until_then(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    subscription_id = shop.subscribe(user)
    stripe.act(subscription_id, "cancel_at_period_end")
    shop.deliver_all()
    told = user.get("/subscription/status").json
    assert (told["tier"], told["cancel_at_period_end"]) == ("pro", True)
    item = stripe.act(subscription_id, "renew")["items"]["data"][0]  # the period is over
    assert parsed(told["current_period_end"]).timestamp() == item["current_period_end"]
    shop.deliver_all()
    assert user.get("/user/me").json["tier"] == "basic"


def test_a_grant_by_an_operator_is_independent_of_stripe(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    now = datetime.now(UTC)
    ends = now + timedelta(days=7)
    shop.run(lambda: grant_pro(UUID(user.id), reason="a gift", ends_at=ends, now=now))
    told = user.get("/subscription/status").json
    assert (told["tier"], told["status"], parsed(told["current_period_end"])) == ("pro", "granted", ends)
    stripe.act(shop.subscribe(user), "cancel")
    shop.deliver_all()
    assert user.get("/subscription/status").json["status"] == "granted"
    assert shop.run(lambda: tier_of(UUID(user.id), ends)) is Tier.BASIC
    assert shop.run(lambda: subscription_status(UUID(user.id), now=ends)).status == "canceled"


@pytest.mark.parametrize("unknown", [{"price_id": None}, {"status": "past_due", "past_due_since": None}])
def test_a_subscription_that_gives_pro_is_shown_before_one_of_which_less_is_known(
    unknown: dict[str, Any], user: Any, shop: Shop
) -> None:
    shop.subscribe(user)
    newer = {"id": "sub_newer", "created_at": "2030-01-01T00:00:00Z", "cancel_at_period_end": True}
    shop.execute(COPY_OF_THE_ONE, new=json.dumps(newer | unknown))
    told = user.get("/subscription/status").json
    assert (told["tier"], told["status"], told["cancel_at_period_end"]) == ("pro", "active", False)
    assert user.get("/user/me").json["tier"] == "pro"


def test_an_unpaid_subscription_is_shown_before_a_later_one_that_is_not_live(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    stripe.act(shop.subscribe(user), "set", status="past_due", period_start=1_700_000_000)
    shop.deliver_all()
    newer = {"id": "sub_newer", "created_at": "2030-01-01T00:00:00Z", "status": "incomplete", "past_due_since": None}
    shop.execute(COPY_OF_THE_ONE, new=json.dumps(newer))
    told = user.get("/subscription/status").json
    assert (told["tier"], told["status"]) == ("basic", "past_due")


def test_of_several_grants_the_one_that_lasts_longest_is_shown(user: Any, shop: Shop) -> None:
    now = datetime.now(UTC)
    for days, shown in ((7, 7), (9, 9), (8, 9), (None, None), (30, None)):
        ends_at, latest = (now + timedelta(days=number) if number else None for number in (days, shown))
        shop.run(partial(grant_pro, UUID(user.id), reason="a gift", ends_at=ends_at, now=now))
        assert shop.run(partial(subscription_status, UUID(user.id), now=now)).current_period_end == latest


def test_a_late_payment_gives_pro_only_when_it_has_come(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    session_id = user.post("/subscribe/pro").json["session_id"]
    stripe.checkout(session_id, "pay_async")
    shop.deliver_all()
    assert user.get("/subscription/status").json["status"] == "incomplete"
    assert user.get("/user/me").json["tier"] == "basic"
    stripe.checkout(session_id, "async_succeed")
    shop.deliver_all("checkout.session.async_payment_succeeded")
    assert user.get("/user/me").json["tier"] == "pro"


def test_a_late_payment_that_fails_gives_nothing(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    session_id = user.post("/subscribe/pro").json["session_id"]
    stripe.checkout(session_id, "pay_async")
    stripe.checkout(session_id, "async_fail")
    shop.deliver_all("checkout.session.async_payment_failed")
    assert user.get("/subscription/status").json["status"] == "incomplete_expired"


def test_a_declined_card_changes_nothing(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    session_id = user.post("/subscribe/pro").json["session_id"]
    stripe.checkout(session_id, "decline")
    shop.deliver_all()
    assert user.get("/subscription/status").json == NOTHING_YET
    assert user.post("/subscribe/pro").json["session_id"] == session_id


def test_a_deleted_customer_is_basic(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    shop.subscribe(user)
    customer_id = shop.rows("stripe_customers")[0]["stripe_id"]
    stripe.act(shop.rows()[0]["id"], "cancel")
    event = stripe.make_event("customer.deleted", object_id=customer_id)
    assert shop.deliver(event["id"]).status_code == 200
    assert user.get("/user/me").json["tier"] == "basic"
    assert shop.subscribe(user)  # with a new customer
    assert len({row["stripe_id"] for row in shop.rows("stripe_customers")}) == 2


def test_a_deleted_customer_is_basic_even_if_stripe_forgot_the_subscription(
    user: Any, shop: Shop, stripe: RunningStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    subscription_id = shop.subscribe(user)
    never_paid = "jsonb_build_object('id', 'sub_old', 'status', 'incomplete_expired')"
    shop.execute(
        f"INSERT INTO subscriptions SELECT copy.* FROM subscriptions one, jsonb_populate_record(one, {never_paid}) copy"
    )
    customer = {"id": shop.rows("stripe_customers")[0]["stripe_id"], "object": "customer"}
    stripe.reset()
    event = stripe.make_event("customer.deleted", object=customer)
    with caplog.at_level("INFO", "app"):
        assert shop.deliver(event["id"]).status_code == 200
    assert f"subscription_changed subscription={subscription_id} before=active after=canceled" in caplog.text
    assert user.get("/user/me").json["tier"] == "basic"
    statuses = {row["id"]: row["status"] for row in shop.rows()}
    assert statuses == {subscription_id: "canceled", "sub_old": "incomplete_expired"}


def test_a_debt_ends_with_its_customer(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    stripe.act(shop.subscribe(user), "fail_payment")
    shop.deliver_all()
    assert user.get("/subscription/status").json["grace_until"] is not None
    shop.deliver(stripe.make_event("customer.deleted", object_id=shop.rows("stripe_customers")[0]["stripe_id"])["id"])
    told = user.get("/subscription/status").json
    assert (told["status"], told["grace_until"]) == ("canceled", None)


# Copies of the existing customer, without a user, and of its subscription.
MANY_CUSTOMERS = """
WITH customers AS (
    INSERT INTO stripe_customers SELECT copy.* FROM stripe_customers one, generate_series(1, 5000) number,
        jsonb_populate_record(one, jsonb_build_object(
            'id', gen_random_uuid(), 'user_id', NULL, 'stripe_id', one.stripe_id || number, 'session_id', NULL)) copy
    RETURNING id
)
INSERT INTO subscriptions SELECT copy.* FROM subscriptions one, customers,
    jsonb_populate_record(one, jsonb_build_object('id', one.id || customers.id, 'customer_id', customers.id)) copy
"""


def test_the_tier_takes_one_query_that_uses_indexes(user: Any, shop: Shop) -> None:
    shop.subscribe(user)
    seen: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    with shop.app.app_context():
        event.listen(db.engine, "before_cursor_execute", listen)
        assert tier_of(UUID(user.id), datetime.now(UTC)) is Tier.PRO
        event.remove(db.engine, "before_cursor_execute", listen)
        assert len(seen) == 1
        with answers_within(60), undone():
            connection = db.session.connection()
            connection.exec_driver_sql("SET LOCAL statement_timeout = '60s'")  # for a slow machine
            connection.exec_driver_sql(MANY_CUSTOMERS)
            connection.exec_driver_sql("ANALYZE stripe_customers, subscriptions")
            plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {seen[0][0]}", seen[0][1]))
    assert "Seq Scan" not in plan
    assert "stripe_customers_user_id" in plan
    assert "ix_subscriptions_customer_id" in plan


def test_the_next_prompt_has_the_new_limit_and_a_fall_back_counts_the_whole_day(
    user: Any, shop: Shop, stripe: RunningStandIn, prompt: Callable[[], Any]
) -> None:
    assert [prompt().status_code for _ in range(6)] == [202] * 5 + [429]
    subscription_id = shop.subscribe(user)
    answers = [prompt() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202] * 3
    assert "RateLimit-Limit" not in answers[0].headers
    assert user.get("/user/usage").json["used"] == 8
    stripe.act(subscription_id, "cancel")
    shop.deliver_all()
    assert prompt().json["code"] == "daily_quota_exceeded"
    usage = user.get("/user/usage").json
    assert (usage["tier"], usage["limit"], usage["used"], usage["remaining"]) == ("basic", 5, 8, 0)


def test_pro_prompts_count_after_a_fall_back_below_the_limit(
    user: Any, shop: Shop, stripe: RunningStandIn, prompt: Callable[[], Any]
) -> None:
    subscription_id = shop.subscribe(user)
    assert [prompt().status_code for _ in range(3)] == [202] * 3
    stripe.act(subscription_id, "cancel")
    shop.deliver_all()
    assert [prompt().status_code for _ in range(3)] == [202, 202, 429]


@pytest.fixture
def prompt(user: Any) -> Callable[[], Any]:
    """Send a prompt."""
    room = user.make_chatroom()
    return lambda: user.post(f"{room}/message", json={"text": "Explain DNS"})
