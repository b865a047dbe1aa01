"""What only a real web process can show: bodies on a socket, broken requests, ids in its log."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from sandbox.stack.servers import wait_until
from tests.problems import assert_problem
from tests.web_process import WebProcess, serving

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def web(environment: dict[str, str], migrated_app: Any, tmp_path_factory: Any) -> Iterator[WebProcess]:
    with serving(environment | {"STREAMS_PER_USER": "1"}, tmp_path_factory.mktemp("web") / "web.log") as process:
        yield process


@pytest.fixture
def token(app: Any, web: WebProcess, mobile_numbers: Iterator[str]) -> str:
    return web.log_in(next(mobile_numbers))["access_token"]


def test_a_client_that_hangs_up_may_come_back_soon(web, token):
    """Its place among its user's streams is free long before anything is sent to it."""
    room = web.call("POST", "/chatroom", token=token, json={"title": "A room"}).json()["id"]
    sent = web.call("POST", f"/chatroom/{room}/message", token=token, json={"text": "Nobody answers"}).json()
    path = f"/chatroom/{room}/messages/{sent['reply']['id']}/stream"
    first = web.call("GET", path, token=token, stream=True)
    assert next(first.iter_lines()) == b"event: status"
    assert web.call("GET", path, token=token).status_code == 429
    first.close()

    def may_follow() -> bool:
        with web.call("GET", path, token=token, stream=True) as again:
            return again.status_code == 200

    assert wait_until(may_follow, seconds=10)


def pieces(size: int) -> Iterator[bytes]:
    """A body whose length nobody is told beforehand: it is sent chunked."""
    for _ in range(size // 16_384):
        yield b" " * 16_384
    yield b'{"title": "A room"}'


def talk(web: WebProcess, raw: bytes) -> bytes:
    """Send bytes as they are; everything that comes back until the server closes."""
    address = urlsplit(web.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


@pytest.mark.parametrize("size", [200_000, MEBIBYTE, 5 * MEBIBYTE])
def test_too_large_body_is_413_announced_or_chunked(web, token, size):
    headers = {"headers": {"Content-Type": "application/json"}}
    for body in (b" " * size, pieces(size)):
        response = web.call("POST", "/chatroom", token=token, data=body, **headers)
        assert_problem(response, 413, "body_too_large")


def test_too_large_body_is_413_also_without_a_token(web):
    for body in (b" " * MEBIBYTE, pieces(MEBIBYTE)):
        response = web.call("POST", "/auth/signup", data=body, headers={"Content-Type": "application/json"})
        assert_problem(response, 413, "body_too_large")


def test_small_chunked_body_is_read(web, token):
    response = web.call(
        "POST", "/chatroom", token=token, data=pieces(16_384), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 201
    assert response.json()["title"] == "A room"


def test_body_sent_to_a_route_that_takes_none_does_no_harm(web, token):
    for body in (b" " * 10_000, pieces(32_768)):
        assert web.call("GET", "/chatroom", token=token, data=body).status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n",
        b"POST /auth/signup HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n",
        b"POST /auth/signup HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"POST /auth/signup HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
    ],
)
def test_broken_request_is_refused_and_the_next_one_answered(web, raw):
    answer = talk(web, raw)
    assert b"500" not in answer.split(b"\r\n")[0]
    assert b"Traceback" not in answer
    assert web.call("GET", "/healthz").status_code == 200


def test_body_that_ends_too_early_is_no_error_of_ours(web):
    answer = talk(
        web,
        b"POST /auth/signup HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        b'{"mobile": "+1',
    )
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert json.loads(answer.rsplit(b"\r\n\r\n", 1)[1])["code"] == "malformed_json"


@pytest.mark.parametrize("host", [b"", b"a b", b"<script>", b"[::1", b"a:b:c", b"\xff"])
def test_odd_host_header_is_no_error_of_ours(web, host):
    answer = talk(web, b"GET /nothing HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    status = int(answer.split(b" ")[1])
    assert status in {400, 404}, answer


def test_path_in_bytes_that_are_no_utf8_is_404(web):
    answer = talk(web, b"GET /chatroom/\xff\xfe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert int(answer.split(b" ")[1]) in {400, 404}, answer
