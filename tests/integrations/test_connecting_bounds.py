"""A call ends in time while it still connects, to Gemini and to Stripe, straight or through a proxy."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psutil
import pytest

from app.integrations import bounded_calls
from app.integrations.bounded_calls import BoundedCall
from app.integrations.gemini.client import CallAborted, ModelTimeout, ModelUnavailable
from app.integrations.stripe import Payments, PaymentsUnavailable
from sandbox.stack.processes import free_port, wait_until
from tests.integrations.scripted import JSON, says, serving, silent_address

URL = "http://of-many-addresses.example"
READ_SECONDS = 6.0  # what each of a host's addresses would get without a bound
GRACE_SECONDS = 4.0  # for a machine that is busy with others
ANSWER = b'{"candidates": [{"content": {"parts": [{"text": "here"}]}, "finishReason": "STOP"}]}'

Resolve = Callable[..., None]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Make the resolver give the host of URL these addresses."""
    look_up = socket.getaddrinfo

    def resolve(*addresses: tuple[str, int]) -> None:
        found = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for address in addresses]

        def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> list[Any]:
            return found if URL.endswith(str(host)) else look_up(host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return resolve


@pytest.fixture
def silent(resolve: Resolve) -> Iterator[list[tuple[str, int]]]:
    """The host's four addresses, where nobody answers."""
    with ExitStack() as ends:
        addresses = [ends.enter_context(silent_address()) for _ in range(4)]
        resolve(*addresses)
        yield addresses


def connecting() -> int:
    """Return how many sockets of this process wait for a connection."""
    return sum(one.status == psutil.CONN_SYN_SENT for one in psutil.Process().net_connections("tcp4"))


def test_another_thread_can_end_a_call_that_is_connecting(make_asker, silent):
    waiting, call = connecting(), BoundedCall(30)
    asker = make_asker(endpoint=URL)
    with ThreadPoolExecutor(1) as others:
        asked = others.submit(asker.ask, "Hello", seconds=READ_SECONDS, call=call)
        assert wait_until(lambda: connecting() > waiting, seconds=10)
        aborted_at = time.monotonic()
        call.abort()
        outcome = asked.result()

    assert isinstance(outcome.error, CallAborted)
    assert time.monotonic() - aborted_at < GRACE_SECONDS


def test_a_call_that_is_connecting_is_bounded_as_a_whole(make_asker, silent):
    outcome = make_asker(endpoint=URL).ask("Hello", seconds=READ_SECONDS, call=BoundedCall(0.5))

    assert isinstance(outcome.error, ModelTimeout)
    assert outcome.seconds < 0.5 + GRACE_SECONDS


def test_calls_to_stripe_that_are_connecting_are_bounded_together(silent):
    assert seconds_of_stripes_silence(URL) < 1 + GRACE_SECONDS


def test_calls_to_stripe_through_a_proxy_are_bounded_together(monkeypatch):
    with serving(lambda connection: connection.recv(1)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        assert seconds_of_stripes_silence(URL) < 1 + GRACE_SECONDS


def seconds_of_stripes_silence(url: str) -> float:
    """Return how long calls take that have one second and get no answer."""
    payments = Payments("sk_test_key", url)
    begun = time.monotonic()
    with BoundedCall(1), pytest.raises(PaymentsUnavailable):
        payments.session("cs_test_1")
    return time.monotonic() - begun


def test_a_silent_address_takes_little_of_the_next_ones_time(make_asker, resolve, monkeypatch):
    monkeypatch.setattr(bounded_calls, "CONNECT_SECONDS", 0.2)
    with serving(says(JSON, ANSWER)) as url, silent_address() as silent:
        resolve(("127.0.0.1", free_port()), silent, ("127.0.0.1", int(url.rpartition(":")[2])))
        outcome = make_asker(endpoint=URL).ask("Hello", seconds=30)

    assert outcome.answer.text == "here"
    assert outcome.seconds < 0.2 + GRACE_SECONDS


def test_a_host_that_never_answers_is_a_timeout(make_asker, silent):
    outcome = make_asker(endpoint=URL).ask("Hello", seconds=0.2, call=BoundedCall(30))

    assert isinstance(outcome.error, ModelTimeout)


def test_a_host_that_refuses_is_unavailable(make_asker, resolve):
    resolve(("127.0.0.1", free_port()), ("127.0.0.1", free_port()))

    assert type(make_asker(endpoint=URL).ask("Hello").error) is ModelUnavailable
