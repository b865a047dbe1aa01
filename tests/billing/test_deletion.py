"""An account deleted through the API: what it pays for ends first, and nothing can be paid for afterwards."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import pytest
import requests
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import QueuePool

from app.core.db import db
from sandbox.stand_ins import RunningStandIn
from tests.billing.conftest import Shop
from tests.problems import assert_problem

SESSIONS = "/v1/checkout/sessions"


def elsewhere(user: Any, shop: Shop) -> Any:
    """The same user on another device."""
    return replace(user, client=shop.app.test_client())


def test_deleting_the_account_cancels_its_subscription(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    subscription_id = shop.subscribe(user)
    assert user.delete("/user/me").status_code == 204
    (ended,) = stripe.events("customer.subscription.deleted")
    assert ended["event"]["data"]["object"]["id"] == subscription_id
    assert_problem(user.get("/user/me"), 401, "token_revoked")


@pytest.mark.parametrize(
    ("status", "answer"), [(500, (503, "service_unavailable")), (400, (502, "payment_provider_error"))]
)
def test_the_account_stays_when_its_subscription_cannot_be_canceled(
    status: int, answer: tuple[int, str], user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    shop.subscribe(user)
    stripe.behave(path="/v1/subscriptions", method="DELETE", status=status)
    assert_problem(user.delete("/user/me"), *answer)
    assert user.get("/user/me").json["tier"] == "pro"


def test_no_connection_is_held_while_stripe_is_slow(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    shop.subscribe(user)
    with shop.app.app_context():
        pool = cast(QueuePool, db.engine.pool)
    stripe.behave(path=SESSIONS, method="GET", hold=True, times=1)
    with ThreadPoolExecutor(1) as executor:
        deleting = executor.submit(elsewhere(user, shop).delete, "/user/me")
        stripe.wait_held()
        held = pool.checkedout()
        stripe.behave()
        assert (deleting.result(10).status_code, held) == (204, 0)


def test_a_session_made_after_the_account_is_gone_is_not_handed_out(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    stripe.behave(path=SESSIONS, method="POST", hold=True, times=1)
    with ThreadPoolExecutor(1) as pool:
        buying = pool.submit(elsewhere(user, shop).post, "/subscribe/pro")
        stripe.wait_held()
        assert user.delete("/user/me").status_code == 204
        stripe.behave()
        assert_problem(buying.result(10), 401, "token_revoked")
    assert stripe.call("GET", "/stats")["sessions"] == 1
    assert len(stripe.events("checkout.session.expired")) == 1


def test_a_session_opened_during_a_deletion_is_expired_too(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    stripe.checkout(user.post("/subscribe/pro").json["session_id"], "expire")
    stripe.behave(
        path="/v1/subscriptions", method="GET", hold=True, times=1
    )  # the deletion has already looked for open sessions
    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(elsewhere(user, shop).delete, "/user/me")
        stripe.wait_held()
        session_id = user.post("/subscribe/pro").json["session_id"]
        stripe.behave()
        assert deleting.result(10).status_code == 204
    with pytest.raises(requests.HTTPError):
        stripe.pay(session_id)


def test_no_session_is_stored_while_the_account_is_being_deleted(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    """Stored after the last look for open sessions, it would stay open."""
    assert user.post("/subscription/portal").status_code == 200
    late = text("UPDATE stripe_customers SET session_id = 'cs_late'")
    waited: list[bool] = []

    def keep_one(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT stripe_customers.session_id"):
            with engine.connect() as another:
                another.execute(text("SET LOCAL lock_timeout = 200"))
                with pytest.raises(OperationalError, match="lock timeout"):
                    another.execute(late)
            waited.append(True)

    with shop.app.app_context():
        engine = create_engine(db.engine.url)
        event.listen(db.engine, "after_cursor_execute", keep_one)
        try:
            assert user.delete("/user/me").status_code == 204
        finally:
            event.remove(db.engine, "after_cursor_execute", keep_one)
    engine.dispose()
    assert waited == [True]


def test_sessions_and_subscriptions_of_others_stay(
    user: Any, make_user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    buyer, payer, stranger = make_user(), make_user(), make_user()
    opened = buyer.post("/subscribe/pro").json
    shop.subscribe(payer)
    assert user.post("/subscription/portal").status_code == 200  # makes a customer
    for person in (user, stranger):
        assert person.delete("/user/me").status_code == 204
    assert buyer.post("/subscribe/pro").json == opened
    assert payer.post("/subscribe/pro").status_code == 409
    assert stripe.events("customer.subscription.deleted") == []


def test_deleting_a_user_who_is_no_customer_needs_no_stripe(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    stripe.behave(path="/v1/", status=500)
    assert user.post("/subscribe/pro").status_code == 503
    assert [row["stripe_id"] for row in shop.rows("stripe_customers")] == [None]
    assert user.delete("/user/me").status_code == 204


def test_a_customer_unknown_to_stripe_does_not_prevent_the_deletion(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    stripe.act(shop.subscribe(user), "cancel")
    shop.deliver_all()
    stripe.reset()
    assert user.delete("/user/me").status_code == 204
    assert shop.rows("stripe_customers")[0]["deleted_at"] is not None


def test_a_paying_customer_unknown_to_stripe_prevents_the_deletion(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    """The key may belong to another Stripe account; at the right one the payments would go on."""
    shop.subscribe(user)
    stripe.reset()
    assert_problem(user.delete("/user/me"), 502, "payment_provider_error")
    assert user.get("/user/me").json["tier"] == "pro"
