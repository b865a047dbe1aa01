"""What only a real web process can show: bodies on a socket, broken requests, ids in its log."""

import json
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import pytest

from sandbox.stack.processes import wait_until
from tests.problems import assert_problem
from tests.web_process import WebProcess, serving

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def web(
    environment: dict[str, str], migrated_app: Any, make_redis_url: Callable[[], str], tmp_path_factory: Any
) -> Iterator[WebProcess]:
    own = environment | {"STREAMS_PER_USER": "1", "REDIS_URL": make_redis_url()}  # and there is no worker
    with serving(own, tmp_path_factory.mktemp("web") / "web.log") as process:
        yield process


@pytest.fixture
def token(app: Any, web: WebProcess, mobile_numbers: Iterator[str]) -> str:
    return web.log_in(next(mobile_numbers))["access_token"]


def test_a_client_that_hung_up_can_follow_again_soon(web, token):
    """Its slot among its user's streams is free long before anything else is sent to it."""
    room = web.call("POST", "/chatroom", token=token, json={"title": "A room"}).json()["id"]
    sent = web.call("POST", f"/chatroom/{room}/message", token=token, json={"text": "Nobody answers"}).json()
    path = f"/chatroom/{room}/messages/{sent['reply']['id']}/stream"

    def may_follow() -> bool:
        with web.call("GET", path, token=token, stream=True) as again:
            return again.status_code == 200

    first = web.call("GET", path, token=token, stream=True)
    lines = first.iter_lines()  # the connection lives as long as this iterator
    assert next(lines) == b"event: status"
    assert not may_follow()
    first.close()
    assert wait_until(may_follow, seconds=10)


def pieces(size: int) -> Iterator[bytes]:
    """Yield a body whose length is not announced, so that it is sent chunked."""
    for _ in range(size // 16_384):
        yield b" " * 16_384
    yield b'{"title": "A room"}'


def talk(web: WebProcess, raw: bytes) -> bytes:
    """Send bytes as they are. Returns everything that comes back until the server closes."""
    address = urlsplit(web.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count of packets")
def test_an_answer_is_one_packet(web, token):
    """A client that the headers alone had woken would have to wait again, for the CPU too."""
    room = web.call("POST", "/chatroom", token=token, json={"title": "A room"}).headers["Location"]
    with closing(HTTPConnection(urlsplit(web.url).netloc)) as connection:
        for received, path in enumerate(("/healthz", room, "/user/me", "/nowhere"), start=1):
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            connection.getresponse().read()
            assert packets_received(connection.sock) == received


def packets_received(connection: socket.socket) -> int:
    """Return the number of packets with data: `tcpi_data_segs_in` of linux/tcp.h."""
    return struct.unpack_from("I", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 152)[0]


@pytest.mark.parametrize("size", [200_000, MEBIBYTE, 5 * MEBIBYTE])
def test_too_large_body_is_413_announced_or_chunked(web, token, size):
    headers = {"headers": {"Content-Type": "application/json"}}
    for body in (b" " * size, pieces(size)):
        response = web.call("POST", "/chatroom", token=token, data=body, **headers)
        assert_problem(response, 413, "body_too_large")


def test_too_large_body_is_413_even_without_a_token(web):
    for body in (b" " * MEBIBYTE, pieces(MEBIBYTE)):
        response = web.call("POST", "/auth/signup", data=body, headers={"Content-Type": "application/json"})
        assert_problem(response, 413, "body_too_large")


@pytest.mark.parametrize(("method", "path", "status"), [("PATCH", "/user/me", 401), ("POST", "/nowhere", 404)])
@pytest.mark.parametrize("size", [20_000, 100_000, 300_000])
def test_a_connection_stays_usable_after_a_body_that_nobody_read(web, method, path, status, size):
    address = urlsplit(web.url)
    with closing(HTTPConnection(address.hostname, address.port, timeout=10)) as connection:
        for _ in range(2):
            connection.request(method, path, b" " * size, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
            own = connection.sock
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
            assert connection.sock is own  # http.client opens another one when the server has closed it


def test_a_connection_that_ends_after_a_huge_body_says_so(web):
    address = urlsplit(web.url)
    with closing(HTTPConnection(address.hostname, address.port, timeout=10)) as connection:
        for size, announced in ((MEBIBYTE, "keep-alive"), (9 * MEBIBYTE, "close")):
            connection.request("POST", "/auth/signup", b" " * size, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert (answer.status, answer.headers["Connection"]) == (413, announced)


def test_small_chunked_body_is_read(web, token):
    response = web.call(
        "POST", "/chatroom", token=token, data=pieces(16_384), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 201
    assert response.json()["title"] == "A room"


def test_body_sent_to_a_route_that_takes_none_does_no_harm(web, token):
    for body in (b" " * 10_000, pieces(32_768)):
        assert web.call("GET", "/chatroom", token=token, data=body).status_code == 200


SIGNUP = b"POST /auth/signup HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n", 400),
        (SIGNUP + b"Content-Length: abc\r\n\r\n", 400),
        (SIGNUP + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
        (SIGNUP + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400),
    ],
)
def test_broken_request_is_refused_and_the_next_one_answered(web, raw, status):
    answer = read_answer(talk(web, raw))
    assert answer.status == status
    assert b"Traceback" not in answer.body
    assert web.call("GET", "/healthz").status_code == 200


def read_answer(raw: bytes) -> HTTPResponse:
    """Return the first answer in what came over a connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(raw)
        response = HTTPResponse(ours)
        response.begin()
        response.body = response.read()
    return response


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400, "bad_request"),
        (b"nonsense\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: \x00secret\r\n\r\n", 400, "bad_request"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "uri_too_long"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 200 + b"\r\n", 431, "headers_too_large"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: br\r\n\r\n", 501, "not_implemented"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: secret\r\n\r\n", 417, "bad_request"),
    ],
)
def test_malformed_http_is_rejected_with_a_problem_document(web, raw, status, code):
    answer = read_answer(talk(web, raw))
    problem = json.loads(answer.body)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert (problem["status"], problem["code"]) == (status, code)
    assert answer.headers["X-Request-ID"] == problem["request_id"] != ""
    assert answer.headers["Connection"] == "close"
    assert "Server" not in answer.headers
    assert "aaaa" not in problem["detail"]
    assert "secret" not in problem["detail"]
    assert problem["title"]


def test_an_expectation_that_cannot_be_met_is_refused_by_name(web):
    answer = read_answer(talk(web, b"GET /healthz HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n"))
    assert json.loads(answer.body)["detail"] == "`Expect` can only be `100-continue`."


def test_a_refusal_says_nothing_of_the_request_in_the_log(web):
    secrets = [b"a-password", b"a-token", b"a-query"]
    raw = [
        b'POST /auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}{"password":"a-password"}\r\n\r\n',
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nAuthorization Bearer a-token\r\n\r\n",
        b"GET /x\x01?token=a-query HTTP/1.1\r\nHost: a\r\n\r\n",
    ]
    for request in raw:
        assert b" 400 " in talk(web, request)
    log = web.log_file.read_bytes()
    assert not [secret for secret in secrets if secret in log]
    assert b"Invalid request from ip=127.0.0.0/24: InvalidHeader" in log


def test_silent_clients_hold_no_thread(web):
    """More clients than threads stop in the middle of their headers or bodies; each is given up after ten seconds."""
    body = b"POST /auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{"
    headers = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: "
    address = urlsplit(web.url)
    began, connections, answers = time.monotonic(), [], [b"", b"", b""]
    with ExitStack() as opened:
        for beginning in [body % 100, body % 100_000, body % 200_000, headers] * 12:
            connection = opened.enter_context(socket.create_connection((address.hostname, address.port), timeout=30))
            connection.sendall(beginning)
            connections.append(connection)
        assert web.call("GET", "/healthz").ok
        for index, code in enumerate((b'"request_timeout"', b'"request_timeout"', b'"body_too_large"')):
            while code not in answers[index] and (part := connections[index].recv(65_536)):
                answers[index] += part
        assert 9 < time.monotonic() - began < 18
    assert [answer.split()[1] for answer in answers] == [b"408", b"408", b"413"]
    assert "Traceback" not in web.log_file.read_text()


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_clients_that_leave_a_finished_connection_open_keep_nobody_waiting(web, raw):
    """The server has closed its half. A thread waits for clients that do not close the other, not the process."""
    address, began = urlsplit(web.url), time.monotonic()
    with ExitStack() as opened:
        for _ in range(5):  # gunicorn waits for two seconds each
            connection = opened.enter_context(socket.create_connection((address.hostname, address.port), timeout=10))
            connection.sendall(raw)
            while connection.recv(65_536):
                pass
        assert web.call("GET", "/healthz").ok
    assert time.monotonic() - began < 5


def test_a_refusal_is_not_logged_under_the_trace_of_the_threads_last_request(web):
    trace = "0af7651916cd43dd8448eb211c80319c"
    assert web.call("GET", "/healthz", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"}).ok
    assert wait_until(lambda: trace in web.log_file.read_text(), seconds=20)
    refused = read_answer(talk(web, b"nonsense\r\n\r\n")).headers["X-Request-ID"]
    assert wait_until(lambda: refused in web.log_file.read_text(), seconds=20)
    [line] = [line for line in web.log_file.read_text().splitlines() if refused in line]
    assert trace not in line


def test_two_refusals_have_two_ids_and_the_log_knows_them(web):
    ids = {read_answer(talk(web, b"nonsense\r\n\r\n")).headers["X-Request-ID"] for _ in range(2)}
    assert len(ids) == 2
    assert wait_until(lambda: all(one in web.log_file.read_text() for one in ids), seconds=20)


@pytest.mark.parametrize("body", [b'{"mobile": "+1', b'{"mobile": "+14155550199"}'], ids=["broken", "whole so far"])
def test_body_that_ends_too_early_is_400(web, body):
    answer = talk(
        web,
        b"POST /auth/signup HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        + body,
    )
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert json.loads(answer.rsplit(b"\r\n\r\n", 1)[1])["code"] == "malformed_json"


@pytest.mark.parametrize("host", [b"", b"a b", b"<script>", b"[::1", b"a:b:c", b"\xff"])
def test_odd_host_header_causes_no_500(web, host):
    answer = talk(web, b"GET /nothing HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    assert read_answer(answer).status == 404


def test_a_path_with_bytes_outside_of_ascii_is_refused(web):
    answer = talk(web, b"GET /chatroom/\xff\xfe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert read_answer(answer).status == 400
