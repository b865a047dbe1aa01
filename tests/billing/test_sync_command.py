"""`flask billing sync`, as an operator runs it."""

import json
from typing import Any

import pytest

from sandbox.stand_ins import RunningStandIn
from tests.billing.conftest import Shop


@pytest.mark.parametrize("name", ["everybody", "id", "mobile"])
def test_the_command_corrects_subscriptions_and_prints_them(name: str, make_user: Any, shop: Shop) -> None:
    user, other = make_user(), make_user()
    subscription_id, second = shop.buy(user), shop.buy(other)
    arguments = {"everybody": [], "id": [user.id], "mobile": [user.mobile]}[name]
    result = shop.app.test_cli_runner().invoke(args=["billing", "sync", *arguments])
    assert result.exit_code == 0, result.output
    assert f"{subscription_id}: unknown -> active" in result.output
    assert (second in result.output) == (name == "everybody")
    assert user.get("/user/me").json["tier"] == "pro"
    again = shop.app.test_cli_runner().invoke(args=["billing", "sync", *arguments])
    assert "corrected 0 subscriptions" in again.output


def test_the_command_prints_json(user: Any, shop: Shop) -> None:
    subscription_id = shop.buy(user)
    result = shop.app.test_cli_runner().invoke(args=["billing", "sync", "--json"])
    told = json.loads(result.output)
    assert told["corrected"] == [{"subscription": subscription_id, "before": None, "after": "active"}]


def test_the_command_says_what_is_wrong(shop: Shop, user: Any, stripe: RunningStandIn) -> None:
    run = shop.app.test_cli_runner().invoke
    assert run(args=["billing", "sync", "nobody"]).exit_code == 2
    shop.buy(user)
    stripe.behave(path="/v1/", status=500)
    result = run(args=["billing", "sync"])
    assert result.exit_code == 1
    assert "does not answer" in result.output


def test_the_command_goes_on_after_a_customer_that_is_refused_and_names_it(
    make_user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    for user in (make_user(), make_user()):
        shop.buy(user)
    run = shop.app.test_cli_runner().invoke
    stripe.behave(path="/v1/subscriptions", status=400, times=1)
    result = run(args=["billing", "sync"])
    refused, corrected = shop.compared()
    assert result.exit_code == 1
    assert f"{refused}: not compared" in result.output
    assert corrected not in result.output
    assert "unknown -> active" in result.output
    assert "Compared 1 customers with Stripe" in result.output
    stripe.behave(path="/v1/subscriptions", status=400, times=1)
    result = run(args=["billing", "sync", "--json"])
    assert result.exit_code == 1
    told = json.loads(result.output)
    assert [one["customer"] for one in told["failed"]] == [refused]
    assert (told["compared"], told["left"], len(told["corrected"])) == (1, 0, 0)


def test_the_command_leaves_out_a_customer_that_is_gone(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    user.post("/subscribe/pro")
    stripe.reset()  # Stripe never heard of the customer
    shop.subscribe(user)  # with a new one
    assert [row["deleted_at"] is None for row in shop.rows("stripe_customers")] == [False, True]
    result = shop.app.test_cli_runner().invoke(args=["billing", "sync"])
    assert result.exit_code == 0, result.output
    assert "Compared 1 customers with Stripe" in result.output


def test_the_command_stops_when_stripe_does_not_answer(make_user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    for user in [make_user() for _ in range(5)]:
        shop.buy(user)
    stripe.behave(path="/v1/subscriptions", status=503)
    result = shop.app.test_cli_runner().invoke(args=["billing", "sync"])
    assert result.exit_code == 1
    assert result.output.count("not compared") == 3
    assert "Stripe does not answer: 2 customers were not reached." in result.output


def test_the_command_needs_a_key(make_billing_app: Any) -> None:
    result = make_billing_app(stripe_secret_key="").test_cli_runner().invoke(args=["billing", "sync"])
    assert result.exit_code == 1
    assert "STRIPE_SECRET_KEY is not set" in result.output
