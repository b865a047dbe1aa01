"""Checkout through the real SDK: from a session to a subscription."""

import time

import pytest
import stripe

from tests.sandbox.stripe.conftest import SECRET, sdk

PAID = [
    "checkout.session.completed",
    "customer.subscription.created",
    "invoice.paid",
    "invoice.payment_succeeded",
    "customer.subscription.updated",
]


def test_a_new_session_is_open_and_has_the_fields_it_was_given(open_session):
    session = open_session()
    assert (session.status, session.payment_status, session.mode) == ("open", "unpaid", "subscription")
    assert session.id.startswith("cs_test_")
    assert session.url.endswith(f"/c/pay/{session.id}")
    assert session.client_reference_id == "user-1"
    assert session.metadata.to_dict() == {"user_id": "user-1"}
    assert abs(session.expires_at - time.time() - 24 * 3600) < 60
    assert session.customer_details.email == "ada@example.com"


def test_paying_makes_an_active_subscription_and_a_paid_invoice(stand_in, client, open_session):
    session = open_session()
    stand_in.pay(session.id)
    session = client.v1.checkout.sessions.retrieve(session.id)
    assert (session.status, session.payment_status, session.url) == ("complete", "paid", None)

    subscription = client.v1.subscriptions.retrieve(session.subscription)
    item = subscription["items"].data[0]
    assert subscription.status == "active"
    assert subscription.metadata.to_dict() == {"user_id": "user-1"}
    assert 27 * 86_400 < item.current_period_end - item.current_period_start < 32 * 86_400
    assert "current_period_end" not in subscription
    assert item.price.id == "price_pro"

    invoice = stand_in.events("invoice.paid")[0]["event"]["data"]["object"]
    assert (invoice["status"], invoice["amount_paid"]) == ("paid", 999)
    assert invoice["id"] == session.invoice == subscription.latest_invoice
    assert invoice["parent"]["subscription_details"]["subscription"] == subscription.id


def test_events_of_a_payment_come_in_the_typical_order_with_full_objects(stand_in, open_session):
    session = open_session()
    stand_in.pay(session.id)
    records = [record for record in stand_in.events() if record["type"] != "customer.created"]
    assert [record["type"] for record in records] == PAID
    for record in records:
        signed = stand_in.signed(record["id"])
        event = stripe.Webhook.construct_event(signed["payload"], signed["headers"]["Stripe-Signature"], SECRET)
        assert event.api_version == stripe.api_version
        assert event.livemode is False
        assert event.id == record["id"]
    created, updated = records[1]["event"], records[4]["event"]
    assert created["data"]["object"]["status"] == "incomplete"
    assert updated["data"]["object"]["status"] == "active"
    assert updated["data"]["previous_attributes"] == {"status": "incomplete"}


def test_a_declined_session_stays_open(stand_in, client, open_session):
    session = open_session()
    answer = stand_in.checkout(session.id, "decline")
    assert answer["error"]["code"] == "card_declined"
    assert client.v1.checkout.sessions.retrieve(session.id).status == "open"


def test_an_expired_session_can_be_neither_paid_nor_expired_again(stand_in, client, open_session):
    session = client.v1.checkout.sessions.expire(open_session().id)
    assert (session.status, session.url) == ("expired", None)
    with pytest.raises(stripe.InvalidRequestError, match="can be expired"):
        client.v1.checkout.sessions.expire(session.id)
    assert [record["type"] for record in stand_in.events()] == ["customer.created", "checkout.session.expired"]


def test_sessions_are_listed_by_customer_and_status(client, open_session):
    first = open_session()
    second = open_session(customer=first.customer)
    open_session()
    client.v1.checkout.sessions.expire(first.id)
    listed = client.v1.checkout.sessions.list({"customer": first.customer, "status": "open"})
    assert [session.id for session in listed.data] == [second.id]


@pytest.mark.parametrize(
    ("outcome", "status", "event"),
    [
        ("async_succeed", ("active", "paid"), "checkout.session.async_payment_succeeded"),
        ("async_fail", ("incomplete_expired", "unpaid"), "checkout.session.async_payment_failed"),
    ],
)
def test_a_late_payment_settles_or_fails(stand_in, open_session, outcome, status, event):
    session = stand_in.checkout(open_session().id, "pay_async")["session"]
    assert (session["status"], session["payment_status"]) == ("complete", "unpaid")
    subscriptions = sdk(stand_in.url).v1.subscriptions
    assert subscriptions.retrieve(session["subscription"]).status == "incomplete"
    session = stand_in.checkout(session["id"], outcome)["session"]
    assert (subscriptions.retrieve(session["subscription"]).status, session["payment_status"]) == status
    assert event in [record["type"] for record in stand_in.events()]
