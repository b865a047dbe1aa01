"""Webhooks: signed, in order, again after failures; kept by a restart."""

import json

import pytest
import requests

from sandbox.stand_ins import running_stripe_stand_in
from sandbox.stripe.objects import customer_object, price_object, session_object
from tests.sandbox.stripe.conftest import SECRET, sdk
from tests.sandbox.stripe.test_checkout import PAID


def test_webhooks_arrive_signed_and_in_order(stand_in, receiver, open_session):
    session = open_session()
    stand_in.pay(session.id)
    events = [receiver.next_event() for _ in range(6)]
    assert [event.type for event in events] == ["customer.created", *PAID]
    assert events[1].data.object.id == session.id
    stand_in.wait_delivered()
    assert {record["delivery"] for record in stand_in.events()} == {"delivered"}


def test_a_webhook_that_fails_is_sent_again(stand_in, receiver, client):
    receiver.answers = [500, 302]
    client.v1.customers.create({})
    ids = {receiver.next_event().id for _ in range(3)}
    stand_in.wait_delivered()
    (record,) = stand_in.events()
    assert ids == {record["id"]}
    assert [attempt["status"] for attempt in record["attempts"]] == [500, 302, 200]


def test_a_webhook_that_never_gets_through_is_given_up(stand_in, client):
    stand_in.webhooks(url="http://127.0.0.1:1/webhook", retry_delays=[0.01, 0.01])
    client.v1.customers.create({})
    stand_in.wait_delivered()
    (record,) = stand_in.events()
    assert record["delivery"] == "failed"
    assert [attempt["error"] for attempt in record["attempts"]] == ["ConnectionError"] * 3
    stand_in.webhooks(url="")


def test_the_payment_page_waits_for_the_webhooks(stand_in, receiver, open_session):
    session = open_session()
    requests.post(f"{session.url}/pay", allow_redirects=False, timeout=10)
    assert receiver.arrived.qsize() >= len(PAID)


def test_any_event_can_be_made(stand_in, subscribed):
    record = stand_in.make_event("customer.subscription.updated", object_id=subscribed.id, api_version="2020-08-27")
    event = json.loads(record["payload"])
    assert event["api_version"] == "2020-08-27"
    assert event["data"]["object"]["id"] == subscribed.id
    assert record["delivery"] == "unsent"
    unknown = {"id": "cus_stranger", "object": "customer"}
    assert stand_in.make_event("customer.deleted", object=unknown)["type"] == "customer.deleted"


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("PUT /sandbox/webhooks", {"secret": 5}),
        ("PUT /sandbox/webhooks", {"url": None}),
        ("PUT /sandbox/webhooks", {"retry_delays": 5}),
        ("PUT /sandbox/webhooks", {"retry_delays": ["1"]}),
        ("PUT /sandbox/webhooks", []),
        ("POST /sandbox/webhooks/wait", {"timeout": "soon"}),
        ("POST /sandbox/behaviour/wait", {"timeout": None}),
        ("POST /sandbox/events", 5),
        ("PUT /sandbox/behaviour", {"path": 5}),
        ("PUT /sandbox/behaviour", {"times": "3", "status": 500}),
    ],
)
def test_settings_of_the_wrong_kind_are_refused_and_webhooks_go_on(stand_in, receiver, client, call, body):
    verb, path = call.split()
    answer = requests.request(verb, stand_in.url + path, json=body, timeout=5)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    client.v1.customers.create({})
    assert receiver.types(1) == ["customer.created"]


@pytest.mark.parametrize("sent", [b"{", b"5", b"[]", b"null"])
def test_a_body_that_is_no_object_is_refused_in_a_sentence(stand_in, sent):
    answer = requests.put(f"{stand_in.url}/sandbox/behaviour", data=sent, timeout=5)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "The body is not a JSON object.")


@pytest.mark.parametrize("body", [{}, {"object": {"id": "x", "object": "customer"}}])
def test_an_event_without_a_type_is_refused_with_what_it_lacks(stand_in, body):
    answer = requests.post(f"{stand_in.url}/sandbox/events", json=body, timeout=5)
    assert (answer.status_code, answer.json()["error"].get("param")) == (400, "type")


@pytest.mark.processes
def test_a_session_of_an_earlier_release_can_be_paid(tmp_path):
    """It kept more of what is sold; `make run` goes on with its file."""
    price, customer = price_object("price_1"), customer_object(email=None, metadata={})
    session = session_object(price, "http://x/", customer=customer["id"], success_url="http://x", cancel_url=None)
    line = {"object": "item", "price": price, "quantity": 1}
    state = tmp_path / "stripe.json"
    tables = {
        "customers": {customer["id"]: customer},
        "sessions": {session["id"]: session},
        "line_items": {session["id"]: {"data": [line], "metadata": {"user_id": "1"}}},
    }
    state.write_text(json.dumps(tables))
    with running_stripe_stand_in(webhook_url="", webhook_secret=SECRET, state=state) as stand_in:
        page = requests.get(f"{stand_in.url}/c/pay/{session['id']}", timeout=5)
        assert (page.status_code, "9.99" in page.text) == (200, True)
        assert stand_in.checkout(session["id"], "pay")["session"]["status"] == "complete"


@pytest.mark.processes
def test_the_state_survives_a_restart_and_so_do_undelivered_webhooks(tmp_path, receiver):
    state = tmp_path / "var" / "stripe.json"
    with running_stripe_stand_in(webhook_url="http://127.0.0.1:1/", webhook_secret=SECRET, state=state) as first:
        first.webhooks(retry_delays=[60])
        made = sdk(first.url).v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "k"})
    assert receiver.arrived.empty()
    with running_stripe_stand_in(webhook_url=receiver.url, webhook_secret=SECRET, state=state) as second:
        client = sdk(second.url)
        assert client.v1.customers.retrieve(made.id).email == "a@example.com"
        again = client.v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "k"})
        assert again.id == made.id
        assert receiver.types(1) == ["customer.created"]
        second.behave(path="/v1/customers", hang=True)
        with pytest.raises(requests.ReadTimeout):
            requests.get(f"{second.url}/v1/customers/x", headers={"Authorization": "Bearer sk_test_1"}, timeout=0.2)
        second.stop()
        assert second.process.returncode == 0, "it had to be killed"
    assert [path.name for path in state.parent.iterdir()] == ["stripe.json"]
