"""Buying Pro: one customer, one open session, and no second subscription."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from app.billing.checkout import begin_attempt, create_customer, get_or_insert_customer
from app.billing.stripe_connection import stripe_calls
from app.core.clock import utc_now
from sandbox.stack.processes import wait_until
from sandbox.stand_ins import RunningStandIn
from tests.billing.conftest import Shop, buy_another, delete_customer
from tests.people import all_at_once
from tests.problems import assert_problem


def posts(stripe: RunningStandIn, path: str) -> list[dict[str, Any]]:
    return [call for call in stripe.requests(path, "POST") if call["path"] == path]


def test_subscribing_opens_a_session_that_names_the_user(user: Any, stripe: RunningStandIn) -> None:
    answer = user.post("/subscribe/pro")
    assert answer.status_code == 200
    assert answer.json["url"] == f"{stripe.url}/c/pay/{answer.json['session_id']}"
    (made,) = posts(stripe, "/v1/checkout/sessions")
    assert made["params"]["mode"] == "subscription"
    assert made["params"]["client_reference_id"] == user.id
    assert made["params"]["metadata"] == {"user_id": user.id}
    assert made["params"]["subscription_data"]["metadata"] == {"user_id": user.id}
    assert made["params"]["line_items"] == [{"price": "price_pro", "quantity": "1"}]
    assert made["params"]["success_url"].startswith("https://app.example.com/billing/success?session_id={CHECKOUT_")
    assert made["params"]["cancel_url"] == "https://app.example.com/billing/cancel"
    assert user.mobile not in str(stripe.requests())


def test_the_open_session_is_handed_out_again(user: Any, stripe: RunningStandIn) -> None:
    first, second = user.post("/subscribe/pro"), user.post("/subscribe/pro")
    assert first.json == second.json
    assert len(posts(stripe, "/v1/checkout/sessions")) == 1


def test_ten_requests_at_once_make_one_customer_and_one_session(user: Any, stripe: RunningStandIn, shop: Shop) -> None:
    stripe.behave(path="/v1/customers", method="POST", when="during", hold=True, times=1)

    def let_go() -> None:
        """Let the first call go on when the nine others have heard twice, by the SDK's retry, that the key is taken."""
        assert wait_until(lambda: len(posts(stripe, "/v1/customers")) > 9 * 2, seconds=20)
        stripe.behave()

    buy = [lambda: replace(user, client=shop.app.test_client()).post("/subscribe/pro")] * 10
    *answers, _ = all_at_once([*buy, let_go], retry=False)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json["session_id"] for answer in answers}) == 1
    assert len(stripe.events("customer.created")) == 1
    (customer,) = shop.rows("stripe_customers")
    assert customer["session_id"] == answers[0].json["session_id"]


def test_a_session_that_expired_is_followed_by_a_new_one(user: Any, stripe: RunningStandIn) -> None:
    first = user.post("/subscribe/pro").json["session_id"]
    stripe.checkout(first, "expire")
    second = user.post("/subscribe/pro").json["session_id"]
    assert second != first
    assert len(stripe.events("customer.created")) == 1


def test_a_live_subscription_is_not_bought_twice(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    subscription_id = shop.subscribe(user)
    for status in ("active", "trialing", "past_due"):
        stripe.act(subscription_id, "set", status=status)
        shop.deliver_all("customer.subscription.updated")
        answer = user.post("/subscribe/pro")
        assert (answer.status_code, answer.json["code"]) == (409, "already_subscribed"), status
        assert "POST /subscription/portal" in answer.json["detail"]


def test_a_user_who_subscribed_some_other_way_does_not_get_the_open_session(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    user.post("/subscribe/pro")
    buy_another(stripe)
    shop.deliver_all()
    assert_problem(user.post("/subscribe/pro"), 409, "already_subscribed")


def test_a_slow_failure_does_not_bring_an_earlier_idempotency_key_back(user: Any, shop: Shop) -> None:
    """Stripe may keep another answer under that key."""
    user.post("/subscription/portal")
    slow = shop.run(lambda: get_or_insert_customer(UUID(user.id), now=utc_now()))
    for _ in range(2):
        shop.run(lambda: begin_attempt(get_or_insert_customer(UUID(user.id), now=utc_now())))
    shop.run(lambda: begin_attempt(slow))
    assert [row["attempt"] for row in shop.rows("stripe_customers")] == [3]


def test_a_customer_that_is_made_slowly_does_not_replace_the_one_in_use(user: Any, shop: Shop) -> None:
    """Otherwise the payments of the customer in use would belong to nobody."""
    slow = shop.run(lambda: get_or_insert_customer(UUID(user.id), now=utc_now()))
    shop.run(lambda: begin_attempt(slow))  # as after an error, with another key
    assert user.post("/subscription/portal").status_code == 200
    (used,) = shop.rows("stripe_customers")

    def make() -> None:
        with stripe_calls() as payments:
            create_customer(payments, slow)

    shop.run(make)
    assert shop.rows("stripe_customers") == [used]


def test_what_one_customer_does_leaves_the_others_alone(
    user: Any, make_user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    unmade, other = make_user(), make_user()
    stripe.behave(path="/v1/customers", status=500)
    unmade.post("/subscribe/pro")
    stripe.behave()
    other.post("/subscription/portal")
    before = {row["id"]: row for row in shop.rows("stripe_customers")}
    stripe.behave(path="/v1/checkout/sessions", method="POST", status=500)
    assert user.post("/subscribe/pro").status_code == 503
    stripe.behave()
    shop.subscribe(user)
    after = {row["id"]: row for row in shop.rows("stripe_customers")}
    assert len(after) == 3
    assert before.items() <= after.items()


def test_a_payment_whose_events_were_lost_is_noticed_at_the_next_purchase(user: Any, shop: Shop) -> None:
    shop.buy(user)
    assert user.get("/user/me").json["tier"] == "basic"
    assert user.post("/subscribe/pro").status_code == 409
    assert user.get("/user/me").json["tier"] == "pro"


def test_a_user_can_buy_again_after_a_cancellation(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    first = shop.subscribe(user)
    stripe.act(first, "cancel")
    shop.deliver_all()
    second = shop.subscribe(user)
    assert second != first
    assert user.get("/subscription/status").json["status"] == "active"
    assert len(stripe.events("customer.created")) == 1


def test_a_customer_deleted_at_stripe_is_replaced(
    user: Any, make_user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    user.post("/subscribe/pro")
    (gone,) = shop.rows("stripe_customers")
    make_user().post("/subscription/portal")
    stripe.reset()  # Stripe knows neither the session nor the customer any more
    shop.subscribe(user)
    assert user.get("/user/me").json["tier"] == "pro"
    kept = {row["stripe_id"]: row for row in shop.rows("stripe_customers")}
    assert len(kept) == 3
    assert [name for name, row in kept.items() if row["deleted_at"] is not None] == [gone["stripe_id"]]


def test_a_customer_deleted_at_stripe_with_a_debt_is_replaced(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    stripe.act(shop.subscribe(user), "set", status="unpaid")
    shop.deliver_all()
    shop.execute("UPDATE stripe_customers SET session_id = NULL, attempt = attempt + 1")
    delete_customer(stripe, shop.rows("stripe_customers")[0]["stripe_id"])
    stripe.behave(path="/v1/subscriptions", status=400, code="resource_missing", times=1)
    assert user.post("/subscribe/pro").status_code == 200
    assert [row["status"] for row in shop.rows()] == ["canceled"]


def test_a_customer_deleted_at_stripe_after_paying_is_replaced(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    """Neither the event of the payment nor that of the deletion has come yet."""
    first = shop.buy(user)
    delete_customer(stripe, shop.rows("stripe_customers")[0]["stripe_id"])
    stripe.behave(path="/v1/subscriptions", status=400, code="resource_missing", times=1)
    second = shop.subscribe(user)
    assert second != first
    assert user.get("/user/me").json["tier"] == "pro"
    assert sorted(row["deleted_at"] is None for row in shop.rows("stripe_customers")) == [False, True]


def test_the_portal_opens_for_the_users_own_customer(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    shop.subscribe(user)
    answer = user.post("/subscription/portal")
    assert answer.status_code == 200
    assert answer.json["url"].startswith(f"{stripe.url}/portal/")
    (asked,) = posts(stripe, "/v1/billing_portal/sessions")
    assert asked["params"]["customer"] == shop.rows("stripe_customers")[0]["stripe_id"]
    assert asked["params"]["return_url"] == "https://app.example.com/billing"


def test_the_portal_opens_with_a_new_customer_when_the_payers_was_deleted_at_stripe(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    """No event of the deletion has come yet."""
    shop.subscribe(user)
    delete_customer(stripe, shop.rows("stripe_customers")[0]["stripe_id"])
    assert user.post("/subscription/portal").status_code == 200
    assert [row["status"] for row in shop.rows()] == ["canceled"]
    assert sorted(row["deleted_at"] is None for row in shop.rows("stripe_customers")) == [False, True]


def test_the_portal_opens_before_the_first_purchase(user: Any, stripe: RunningStandIn) -> None:
    assert user.post("/subscription/portal").status_code == 200
    user.post("/subscribe/pro")
    assert len(stripe.events("customer.created")) == 1


def test_every_billing_route_of_the_user_needs_a_token(client: Any) -> None:
    assert client.post("/subscribe/pro").json["code"] == "token_missing"
    assert client.post("/subscription/portal").json["code"] == "token_missing"
    assert client.get("/subscription/status").json["code"] == "token_missing"
