"""An account deleted through the API: what it pays for ends first, and nothing can be paid for afterwards."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import requests

from sandbox.stand_ins import RunningStandIn
from tests.billing.conftest import Shop
from tests.problems import assert_problem

SESSIONS = "/v1/checkout/sessions"


def elsewhere(user: Any, shop: Shop) -> Any:
    """The same user at another of his devices."""
    return replace(user, client=shop.app.test_client())


def test_a_paying_subscriber_pays_no_more(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    subscription_id = shop.subscribe(user)
    assert user.delete("/user/me").status_code == 204
    (ended,) = stripe.events("customer.subscription.deleted")
    assert ended["event"]["data"]["object"]["id"] == subscription_id
    assert_problem(user.get("/user/me"), 401, "token_revoked")


@pytest.mark.parametrize(
    ("status", "answer"), [(500, (503, "service_unavailable")), (400, (502, "payment_provider_error"))]
)
def test_the_account_stays_when_what_it_pays_for_cannot_be_ended(
    status: int, answer: tuple[int, str], user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    shop.subscribe(user)
    stripe.behave(path="/v1/subscriptions", method="DELETE", status=status)
    assert_problem(user.delete("/user/me"), *answer)
    assert user.get("/user/me").json["tier"] == "pro"


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


def test_a_session_opened_in_the_midst_of_a_deletion_is_expired_as_well(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    stripe.checkout(user.post("/subscribe/pro").json["session_id"], "expire")
    stripe.behave(
        path="/v1/subscriptions", method="GET", hold=True, times=1
    )  # its open sessions were looked for before
    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(elsewhere(user, shop).delete, "/user/me")
        stripe.wait_held()
        session_id = user.post("/subscribe/pro").json["session_id"]
        stripe.behave()
        assert deleting.result(10).status_code == 204
    with pytest.raises(requests.HTTPError):
        stripe.pay(session_id)


def test_a_customer_that_stripe_does_not_know_is_no_obstacle(user: Any, shop: Shop, stripe: RunningStandIn) -> None:
    stripe.act(shop.subscribe(user), "cancel")
    shop.deliver_all()
    stripe.reset()
    assert user.delete("/user/me").status_code == 204
    assert shop.rows("stripe_customers")[0]["deleted_at"] is not None


def test_a_customer_that_stripe_does_not_know_yet_pays_keeps_the_account(
    user: Any, shop: Shop, stripe: RunningStandIn
) -> None:
    """The key may be that of another account: at the right one the payments would go on."""
    shop.subscribe(user)
    stripe.reset()
    assert_problem(user.delete("/user/me"), 502, "payment_provider_error")
    assert user.get("/user/me").json["tier"] == "pro"
