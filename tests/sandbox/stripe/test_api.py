"""The manners of the API: errors, idempotency keys, lists, failures on purpose."""

from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter

import pytest
import requests
import stripe

from tests.sandbox.stripe.conftest import sdk

SESSION = {
    "mode": "subscription",
    "customer": "cus_none",
    "success_url": "http://127.0.0.1:1/ok",
    "line_items": [{"price": "price_pro", "quantity": 1}],
}


def test_a_key_that_is_no_test_key_is_refused_and_not_repeated(stand_in):
    with pytest.raises(stripe.AuthenticationError) as caught:
        sdk(stand_in.url, "sk_live_verysecret1234").v1.subscriptions.list()
    assert caught.value.http_status == 401
    assert "verysecret" not in str(caught.value)


def test_no_key_is_refused(stand_in):
    answer = requests.get(f"{stand_in.url}/v1/subscriptions", timeout=5)
    assert answer.status_code == 401
    assert "WWW-Authenticate" in answer.headers


def test_an_unknown_object_raises_resource_missing(client):
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.subscriptions.retrieve("sub_none")
    error = caught.value
    assert (error.http_status, error.code, error.param) == (404, "resource_missing", "id")
    assert error.error.doc_url.endswith("resource-missing")
    assert error.request_id.startswith("req_")


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"line_items": [{"price": "price_missing_1"}]}, "resource_missing", "line_items[0][price]"),
        ({"customer": "cus_none"}, "resource_missing", "customer"),
        ({"line_items": []}, "parameter_missing", "line_items"),
        ({"colour": "blue"}, "parameter_unknown", "colour"),
    ],
)
def test_wrong_parameters_are_named(client, changes, code, param):
    customer = client.v1.customers.create({}).id
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.checkout.sessions.create({**SESSION, "customer": customer, **changes})
    assert (caught.value.http_status, caught.value.code, caught.value.param) == (400, code, param)


def test_an_unknown_path_is_a_stripe_error(stand_in, client):
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL"):
        client.v1.charges.list()


def test_the_same_key_gives_the_same_answer_again(stand_in, client):
    params, options = {"email": "a@example.com"}, {"idempotency_key": "key-1"}
    first = client.v1.customers.create(params, options)
    again = client.v1.customers.create(params, options)
    assert again.id == first.id
    assert "Idempotent-Replayed" not in first.last_response.headers
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert stand_in.call("GET", "/stats")["customers"] == 1


def test_the_same_key_for_another_request_is_an_error(client):
    options = {"idempotency_key": "key-1"}
    client.v1.customers.create({"email": "a@example.com"}, options)
    with pytest.raises(stripe.IdempotencyError):
        client.v1.customers.create({"email": "b@example.com"}, options)


def test_a_refused_parameter_leaves_the_key_free_and_a_failure_is_kept(client):
    options = {"idempotency_key": "key-1"}
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.customers.create({"colour": "blue"}, options)
    client.v1.customers.create({"email": "a@example.com"}, options)
    for _ in range(2):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            client.v1.checkout.sessions.create(SESSION, {"idempotency_key": "k2"})
    assert caught.value.headers["Idempotent-Replayed"] == "true"


def test_a_key_in_use_conflicts_until_its_request_is_over(stand_in, client):
    stand_in.behave(path="/v1/customers", hang=True, when="during", times=1)
    params, options = {"name": "Ada"}, {"idempotency_key": "key-1"}
    with pytest.raises(stripe.APIConnectionError):
        sdk(stand_in.url, read_timeout=0.2).v1.customers.create(params, options)
    with pytest.raises(stripe.APIError) as caught:
        client.v1.customers.create(params, options)
    assert caught.value.http_status == 409
    assert caught.value.error.code == "idempotency_key_in_use"
    stand_in.behave()
    assert sdk(stand_in.url, retries=3).v1.customers.create(params, options).name == "Ada"


def test_parallel_calls_with_one_key_make_one_customer(stand_in):
    stand_in.behave(path="/v1/customers", delay=0.1, when="during", times=1)

    def create(_):
        customers = sdk(stand_in.url, retries=10).v1.customers
        return customers.create({"name": "Ada"}, {"idempotency_key": "key-1"}).id

    with ThreadPoolExecutor(10) as pool:
        assert len(set(pool.map(create, range(10)))) == 1
    assert stand_in.call("GET", "/stats")["customers"] == 1


@pytest.mark.parametrize("kind", ["subscriptions", "checkout.sessions"])
def test_a_list_of_a_customer_that_is_not_there_raises_resource_missing(client, kind):
    with pytest.raises(stripe.InvalidRequestError) as caught:
        attrgetter(kind)(client.v1).list({"customer": "cus_none"})
    assert (caught.value.http_status, caught.value.code, caught.value.param) == (400, "resource_missing", "customer")


def test_lists_have_pages(client, open_session):
    customer = client.v1.customers.create({}).id
    made = [open_session(customer=customer).id for _ in range(5)]
    page = client.v1.checkout.sessions.list({"limit": 2, "customer": customer})
    assert page.has_more
    assert [one.id for one in page.data] == [made[4], made[3]]
    assert [one.id for one in page.auto_paging_iter()] == made[::-1]


def test_a_deleted_customer_says_so_and_has_no_subscription_left(client, subscribed):
    customers = client.v1.customers
    assert customers.delete(subscribed.customer).deleted is True
    assert customers.retrieve(subscribed.customer).deleted is True
    assert client.v1.subscriptions.retrieve(subscribed.id).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError):
        customers.delete(subscribed.customer)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (402, stripe.CardError),
        (429, stripe.RateLimitError),
        (400, stripe.InvalidRequestError),
        (500, stripe.APIError),
        (503, stripe.APIError),
    ],
)
def test_failures_on_purpose_raise_the_classes_of_the_sdk(stand_in, client, status, error):
    made = client.v1.customers.create({})
    stand_in.behave(path="/v1/customers", method="post", status=status, times=1)
    assert client.v1.customers.retrieve(made.id).id == made.id
    with pytest.raises(error) as caught:
        client.v1.customers.create({})
    assert caught.value.http_status == status
    assert client.v1.customers.create({}).id


def test_a_dropped_connection_is_tried_again_by_the_sdk(stand_in):
    stand_in.behave(path="/v1/customers", drop=True, when="after", times=1)
    customer = sdk(stand_in.url, retries=1).v1.customers.create({"name": "Ada"})
    assert customer.last_response.headers["Idempotent-Replayed"] == "true"
    assert stand_in.call("GET", "/stats")["customers"] == 1


def test_a_call_on_hold_goes_on_when_it_is_let_go(stand_in, client):
    stand_in.behave(path="/v1/customers", hold=True, when="after", times=1)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.v1.customers.create, {"name": "Ada"})
        stand_in.wait_held()
        assert stand_in.call("GET", "/stats")["customers"] == 1
        assert not call.done()
        stand_in.behave()
        assert call.result(10).name == "Ada"
    with pytest.raises(TimeoutError):
        stand_in.wait_held(0)


def test_a_hanging_call_times_out_and_changes_nothing(stand_in):
    stand_in.behave(path="/v1/customers", hang=True)
    with pytest.raises(stripe.APIConnectionError):
        sdk(stand_in.url, read_timeout=0.2).v1.customers.create({})
    stand_in.behave()
    assert stand_in.call("GET", "/stats")["customers"] == 0


def test_calls_are_remembered_without_their_key(stand_in, client):
    client.v1.customers.create({"metadata": {"a": "1"}}, {"idempotency_key": "key-1"})
    (call,) = stand_in.requests(path="/v1/customers", method="POST")
    assert call["params"] == {"metadata": {"a": "1"}}
    assert call["idempotency_key"] == "key-1"
    assert call["stripe_version"] == stripe.api_version
    assert "sk_test" not in str(call)
