"""A call's time-out ends that call and no other: not the one that uses its connection after it."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import requests

from app.integrations.bounded_calls import BoundedAdapter, BoundedCall
from app.integrations.gemini.genai import bound
from sandbox.stack.processes import wait_until
from tests.integrations.scripted import read_request, serving

KEPT_ALIVE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"

Post = Callable[[str], Any]


@pytest.fixture(params=["requests", "httpx2"])
def post(request: pytest.FixtureRequest) -> Iterator[Post]:
    """Send a request and read its answer, through a client with one connection in its pool."""
    if request.param == "requests":
        with requests.Session() as session:
            session.mount("http://", BoundedAdapter(pool_connections=1, pool_maxsize=1))
            yield lambda url: session.post(url, json={}, timeout=20).json()
    else:
        with bound(httpx2.Client(limits=httpx2.Limits(max_connections=1))) as client:
            yield lambda url: client.post(url, json={}, timeout=20).json()


class TwoAnswers:
    """A script: the first request of a connection is answered at once, the second when the test says so."""

    def __init__(self) -> None:
        self.connections = 0
        self.second_came, self.answer_second = threading.Event(), threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        self.connections += 1
        self.say(connection, 1)
        read_request(connection)
        self.second_came.set()
        self.answer_second.wait(10)
        self.say(connection, 2)

    def say(self, connection: socket.socket, number: int) -> None:
        body = json.dumps(number).encode()
        connection.sendall(KEPT_ALIVE % (len(body), body))


@pytest.mark.parametrize("end", ["timed out", "aborted"])
def test_a_call_that_ends_late_leaves_alone_a_connection_that_another_call_uses(post, end):
    server, answers = TwoAnswers(), []

    def ask_second(url: str) -> None:
        with BoundedCall(30):
            answers.append(post(url))

    with serving(server) as url, BoundedCall(30 if end == "aborted" else 4) as first:
        answers.append(post(url))
        second = threading.Thread(target=ask_second, args=(url,))
        second.start()  # while the first call goes on with something else, a transaction perhaps
        assert server.second_came.wait(5)
        if end == "aborted":
            first.abort()
        else:
            assert wait_until(lambda: first.timed_out, seconds=20)
        server.answer_second.set()
        second.join(10)

    assert answers == [1, 2]
    assert server.connections == 1


def test_a_call_whose_time_ended_between_two_requests_fails_at_the_next_one(post):
    with serving(TwoAnswers()) as url, BoundedCall(30) as call:
        assert post(url) == 1
        call.abort()
        with pytest.raises((requests.ConnectionError, httpx2.TransportError)):
            post(url)


def test_an_answer_that_closes_its_connection_is_bounded_to_its_end(post):
    def trickle(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 100\r\n\r\n")
        while True:
            connection.sendall(b" ")
            over.wait(0.05)

    over = threading.Event()
    with serving(trickle) as url, BoundedCall(0.5) as call, pytest.raises(Exception, match=r".") as raised:
        post(url)
    assert call.timed_out
    assert not isinstance(raised.value, ValueError), "the whole answer came"
