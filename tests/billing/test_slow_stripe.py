"""While Stripe is slow, requests that wait for it leave threads to all others, and turns to other users."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from sandbox.stand_ins import RunningStandIn
from tests.conftest import wait_until
from tests.problems import assert_problem

PER_PROCESS, PER_USER = 8, 6
PORTAL = "/subscription/portal"


@pytest.fixture
def app(app: Flask, make_billing_app: Callable[..., Flask]) -> Flask:
    """An application of 64 threads. Streams may hold 48 of them, and half of the others may wait for Stripe."""
    return make_billing_app(web_threads=64, streams_per_process=64)


@pytest.fixture
def wait_for_stripe(app: Flask, stripe: RunningStandIn) -> Iterator[Callable[..., None]]:
    """Begin requests that Stripe keeps waiting until the test ends; each must succeed then."""
    begun: list[Any] = []
    with ThreadPoolExecutor(PER_PROCESS) as threads:

        def begin(user: Any, path: str = PORTAL) -> None:
            if not begun:
                stripe.behave(path="/v1/", hold=True)
            asked = len(stripe.requests("/v1/"))
            begun.append(threads.submit(elsewhere(user, app).post, path))
            assert wait_until(lambda: len(stripe.requests("/v1/")) > asked, seconds=20)

        yield begin
        stripe.behave()
        assert {request.result(20).status_code for request in begun} == {200}


def elsewhere(user: Any, app: Flask) -> Any:
    """Return the user with a client of its own, for another thread."""
    return replace(user, client=app.test_client())


@pytest.mark.parametrize(
    "call", [("POST", PORTAL), ("POST", "/subscribe/pro"), ("DELETE", "/user/me")], ids=lambda call: call[1]
)
def test_a_user_has_few_requests_that_wait_for_stripe(
    call: tuple[str, str], make_user: Any, wait_for_stripe: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    greedy, other = make_user(), make_user()
    assert greedy.post(PORTAL).status_code == 200  # an account without a customer is deleted without asking Stripe
    for _ in range(PER_USER):
        wait_for_stripe(greedy)
    refused = greedy.call(*call)
    assert_problem(refused, 429, "rate_limited")
    assert int(refused.headers["Retry-After"]) > 0
    assert greedy.get("/subscription/status").status_code == 200, "what does not ask Stripe goes on"
    wait_for_stripe(other, "/subscribe/pro")
    assert "refused" not in caplog.text


def test_a_process_has_few_requests_that_wait_for_stripe(
    make_user: Any, wait_for_stripe: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    greedy, other = make_user(), make_user()
    for user in [greedy] * PER_USER + [other] * (PER_PROCESS - PER_USER):
        wait_for_stripe(user)
    late = make_user()
    assert_problem(late.post("/subscribe/pro"), 503, "service_unavailable")
    assert f"Payment request refused: WEB_THREADS allows only {PER_PROCESS} at once" in caplog.text
    assert late.get("/user/me").status_code == 200


def test_a_request_that_has_waited_lets_another_one_in(make_user: Any, stripe: RunningStandIn, app: Flask) -> None:
    user = make_user()
    stripe.behave(path="/v1/", status=500)
    for _ in range(PER_USER + 1):
        assert_problem(user.post(PORTAL), 503, "service_unavailable")
    stripe.behave()
    assert user.post(PORTAL).status_code == 200
