"""What happens to a subscription later, by the API, the control API and the portal page."""

import pytest
import requests
import stripe


def types_since(stand_in, before):
    return [record["type"] for record in stand_in.events()[before:]]


@pytest.mark.parametrize(
    ("action", "status", "events"),
    [
        (
            "renew",
            "active",
            ["invoice.paid", "invoice.payment_succeeded", "customer.subscription.updated"],
        ),
        ("fail_payment", "past_due", ["invoice.payment_failed", "customer.subscription.updated"]),
        ("cancel", "canceled", ["customer.subscription.deleted"]),
        ("cancel_at_period_end", "active", ["customer.subscription.updated"]),
    ],
)
def test_each_action_gives_its_status_and_events(stand_in, subscribed, action, status, events):
    before = len(stand_in.events())
    assert stand_in.act(subscribed.id, action)["status"] == status
    assert types_since(stand_in, before) == events


def test_a_failed_payment_can_be_recovered(stand_in, client, subscribed):
    failed = stand_in.act(subscribed.id, "fail_payment", period_start=1_700_000_000)
    assert failed["items"]["data"][0]["current_period_start"] == 1_700_000_000
    assert stand_in.act(subscribed.id, "recover")["status"] == "active"


def test_renewal_moves_the_period_and_says_so(stand_in, subscribed):
    old = subscribed["items"].data[0]
    new = stand_in.act(subscribed.id, "renew")["items"]["data"][0]
    assert new["current_period_start"] == old.current_period_end
    assert new["current_period_end"] > old.current_period_end
    previous = stand_in.events()[-1]["event"]["data"]["previous_attributes"]
    assert previous["items"]["data"][0]["current_period_end"] == old.current_period_end
    assert "latest_invoice" in previous


def test_a_cancellation_for_the_period_end_ends_with_it_or_is_withdrawn(stand_in, subscribed):
    marked = stand_in.act(subscribed.id, "cancel_at_period_end")
    assert (marked["status"], marked["cancel_at_period_end"]) == ("active", False)
    assert marked["cancel_at"] == marked["items"]["data"][0]["current_period_end"]
    assert stand_in.act(subscribed.id, "resume")["cancel_at"] is None
    stand_in.act(subscribed.id, "cancel_at_period_end")
    assert stand_in.act(subscribed.id, "renew")["status"] == "canceled"


def test_a_canceled_subscription_is_still_read_but_not_canceled_again(client, subscribed):
    subscriptions = client.v1.subscriptions
    assert subscriptions.cancel(subscribed.id).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError) as caught:
        subscriptions.cancel(subscribed.id)
    assert caught.value.code == "resource_missing"
    assert subscriptions.list({"customer": subscribed.customer}).data == []
    every = subscriptions.list({"customer": subscribed.customer, "status": "all"}).data
    assert [(one.id, one.status) for one in every] == [(subscribed.id, "canceled")]


def test_any_status_and_period_can_be_set(stand_in, subscribed):
    changed = stand_in.act(
        subscribed.id, "set", status="past_due", period_start=1_700_000_000, period_end=1_700_100_000
    )
    item = changed["items"]["data"][0]
    assert changed["status"] == "past_due"
    assert (item["current_period_start"], item["current_period_end"]) == (1_700_000_000, 1_700_100_000)


def test_the_checkout_page_declines_cancels_and_pays(client, open_session):
    session = open_session()
    page = requests.get(session.url, timeout=5)
    assert "no money moves" in page.text
    assert "<script" not in page.text
    declined = requests.post(f"{session.url}/decline", timeout=5)
    assert "Your card was declined." in declined.text
    left = requests.post(f"{session.url}/cancel", allow_redirects=False, timeout=5)
    assert (left.status_code, left.headers["Location"]) == (303, "http://127.0.0.1:1/no")
    paid = requests.post(f"{session.url}/pay", allow_redirects=False, timeout=5)
    assert paid.status_code == 303
    assert paid.headers["Location"] == f"http://127.0.0.1:1/ok?session={session.id}"
    assert "This checkout is complete" in requests.get(session.url, timeout=5).text
    again = requests.post(f"{session.url}/pay", allow_redirects=True, timeout=5)
    assert "This checkout is complete" in again.text
    assert len(client.v1.subscriptions.list({"customer": session.customer}).data) == 1


def test_the_page_of_an_expired_session_says_so(client, open_session):
    session = open_session()
    client.v1.checkout.sessions.expire(session.id)
    page = requests.get(session.url, timeout=5).text
    assert "This checkout has expired" in page
    assert "<form" not in page


def test_the_slower_method_is_on_the_page(client, open_session):
    session = open_session()
    requests.post(f"{session.url}/pay_async", allow_redirects=False, timeout=5)
    assert "waits for its payment" in requests.get(session.url, timeout=5).text
    page = requests.post(f"{session.url}/async_succeed", timeout=5).text
    assert "It was paid" in page


def test_the_portal_page_acts_on_the_customers_own_subscription(client, subscribed, open_session, stand_in):
    portal = client.v1.billing_portal.sessions.create(
        {"customer": subscribed.customer, "return_url": "http://127.0.0.1:1/account"}
    )
    page = requests.get(portal.url, timeout=5).text
    assert "http://127.0.0.1:1/account" in page
    assert "Cancel at period end" in page
    for action, status in [
        ("fail_payment", "past_due"),
        ("recover", "active"),
        ("cancel_at_period_end", "active"),
        ("resume", "active"),
        ("cancel_at_period_end", "active"),
        ("renew", "canceled"),
    ]:
        answer = requests.post(f"{portal.url}/{subscribed.id}/{action}", timeout=5)
        assert answer.status_code == 200
        assert status.replace("_", " ") in answer.text
        assert client.v1.subscriptions.retrieve(subscribed.id).status == status
    stranger = stand_in.pay(open_session().id)["subscription"]
    assert requests.post(f"{portal.url}/{stranger}/cancel", timeout=5).status_code == 404
