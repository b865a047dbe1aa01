"""Both clients over https: the bound must reach below the encryption."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.integrations.bounded_calls import BoundedCall
from app.integrations.gemini.client import CallAborted, ModelTimeout, ModelUnavailable
from tests.integrations.scripted import JSON, says, serving, tunnel_to
from tests.tls import make_certificate

ANSWER = b'{"candidates": [{"content": {"parts": [{"text": "safe"}]}, "finishReason": "STOP"}]}'
GRACE_SECONDS = 5.0  # for a machine that is busy with others; without a bound it would be 20 and more


@pytest.fixture(scope="session")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    certificate = make_certificate(tmp_path_factory.mktemp("tls"), "127.0.0.1")
    return certificate.context, certificate.trusted


@pytest.fixture
def context(certified: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The server's TLS context. The clients trust its certificate."""
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(variable, str(certified[1]))
    return certified[0]


def trickle(connection: socket.socket) -> None:
    connection.sendall(JSON)
    while True:
        connection.sendall(b" ")
        time.sleep(0.05)


def hang(connection: socket.socket) -> None:
    connection.recv(1)


def test_a_call_is_answered_over_tls(make_asker: Callable[..., Any], context: ssl.SSLContext):
    with serving(says(JSON, ANSWER), context) as url:
        assert make_asker(endpoint=url).ask("Hello").answer.text == "safe"


def test_an_untrusted_server_is_refused(make_asker: Callable[..., Any], certified: tuple[ssl.SSLContext, Path]):
    with serving(says(JSON, ANSWER), certified[0]) as url:
        assert type(make_asker(endpoint=url).ask("Hello").error) is ModelUnavailable


@pytest.mark.parametrize("script", [hang, trickle])
def test_a_call_is_bounded_as_a_whole(make_asker, context, script):
    with serving(script, context) as url:
        outcome = make_asker(endpoint=url).ask("Hello", seconds=0.6)

    assert isinstance(outcome.error, ModelTimeout)
    assert outcome.seconds < 0.6 + GRACE_SECONDS


@pytest.mark.parametrize("script", [hang, trickle])
def test_another_thread_can_end_a_call(make_asker, context, script):
    asked = threading.Event()

    def begin(connection: socket.socket) -> None:
        asked.set()
        script(connection)

    call = BoundedCall(30)
    with serving(begin, context) as url, ThreadPoolExecutor(1) as others:
        outcome = others.submit(make_asker(endpoint=url).ask, "Hello", seconds=30, call=call)
        assert asked.wait(10)
        call.abort()

        assert isinstance(outcome.result(timeout=GRACE_SECONDS).error, CallAborted)


def test_a_handshake_that_never_ends_is_bounded(make_asker):
    with serving(hang) as url:  # waits for a plain request
        outcome = make_asker(endpoint=url.replace("http", "https")).ask("Hello", seconds=20, call=BoundedCall(0.6))

    assert isinstance(outcome.error, ModelTimeout)
    assert outcome.seconds < 1 + GRACE_SECONDS


# Through a proxy


@pytest.fixture(params=["http", "https"])
def through_proxy(
    request: pytest.FixtureRequest, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], AbstractContextManager[str]]:
    """Reach a server through a proxy from the environment, which is itself reached in the clear or over TLS."""

    @contextmanager
    def reach(url: str) -> Iterator[str]:
        with serving(tunnel_to(url), context if request.param == "https" else None) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy)
            yield url

    return reach


def test_a_call_is_answered_through_a_proxy(make_asker, context, through_proxy):
    head = JSON.replace(b"Connection: close", b"Content-Length: %d" % len(ANSWER))
    with serving(says(head, ANSWER), context) as url, through_proxy(url):
        assert make_asker(endpoint=url).ask("Hello").answer.text == "safe"


@pytest.mark.parametrize("script", [hang, trickle])
def test_a_call_through_a_proxy_is_bounded_as_a_whole(make_asker, context, through_proxy, script):
    with serving(script, context) as url, through_proxy(url):
        outcome = make_asker(endpoint=url).ask("Hello", seconds=20, call=BoundedCall(1))

    assert isinstance(outcome.error, ModelTimeout)
    assert outcome.seconds < 1 + GRACE_SECONDS


def test_a_handshake_through_a_proxy_is_bounded(make_asker, through_proxy):
    with serving(hang) as url, through_proxy(url):
        outcome = make_asker(endpoint=url.replace("http", "https")).ask("Hello", seconds=20, call=BoundedCall(1))

    assert isinstance(outcome.error, ModelTimeout)
    assert outcome.seconds < 1 + GRACE_SECONDS
