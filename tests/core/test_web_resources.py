"""What a web process holds: threads, memory and connections, each in a process with settings of its own."""

import resource
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

import psutil
import pytest

from sandbox.stack.processes import descendants
from tests.web_process import serving

MEBIBYTE = 1024 * 1024


def test_streams_leave_threads_for_everybody_else_whatever_the_settings_say(
    own_environment, app, mobile_numbers, tmp_path
):
    given = own_environment | {"STREAMS_PER_PROCESS": "200", "WEB_THREADS": "6"}
    with serving(given, tmp_path / "web.log") as web, ExitStack() as streams:
        token = web.log_in(next(mobile_numbers))["access_token"]
        room = web.call("POST", "/chatroom", token=token, json={"title": "A room"}).headers["Location"]
        reply = web.call("POST", f"{room}/message", token=token, json={"text": "Hello"}).headers["Location"]
        for _ in range(3):
            opened = streams.enter_context(web.call("GET", f"{reply}/stream", token=token, stream=True))
            assert opened.status_code == 200
        refused = web.call("GET", f"{reply}/stream", token=token)
        assert (refused.status_code, refused.json()["code"]) == (503, "service_unavailable")
        assert web.call("GET", "/healthz").took < 5
    lines = [line for line in web.log_file.read_text().splitlines() if "WEB_THREADS is " in line]
    assert len(lines) == 1
    assert "WEB_THREADS is 6, which allows 3 streams, not STREAMS_PER_PROCESS (200)" in lines[0]
    assert "WARNING" in lines[0]


def test_sixteen_threads_stay_free_of_streams(own_environment, app, tmp_path):
    given = own_environment | {"STREAMS_PER_PROCESS": "200", "WEB_THREADS": "64"}
    with serving(given, tmp_path / "web.log") as web:
        assert web.call("GET", "/healthz").ok
    assert "WEB_THREADS is 64, which allows 48 streams" in web.log_file.read_text()


def test_a_process_takes_more_connections_than_its_soft_limit_of_open_files(own_environment, app, tmp_path):
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft_limit = psutil.Process().num_fds() + 100  # this process needs a few more itself
    with ExitStack() as until_ended:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, most))
        try:
            web = until_ended.enter_context(serving(own_environment, tmp_path / "web.log"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
        before = descendants(web.pid)
        for _ in range(soft_limit + 20):
            connection = until_ended.enter_context(closing(HTTPConnection(urlsplit(web.url).netloc, timeout=30)))
            connection.request("GET", "/healthz")
            connection.getresponse().read()
        assert descendants(web.pid) == before


def test_a_process_ends_soon_though_a_client_has_connected_and_sends_nothing(
    own_environment, app, mobile_numbers, tmp_path
):
    """Browsers and some proxies connect in advance; gunicorn would wait its whole `graceful_timeout` for them."""
    with serving(own_environment, tmp_path / "web.log") as web:
        token, address = web.log_in(next(mobile_numbers))["access_token"], urlsplit(web.url)
        room = web.call("POST", "/chatroom", token=token, json={"title": "A room"}).headers["Location"]
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            longer = {"Prefer": "wait=6"}  # than gunicorn's own threads wait for a silent client
            assert web.call("POST", f"{room}/message", token=token, json={"text": "Hello"}, headers=longer).ok
            [process] = psutil.Process(web.pid).children()
            process.terminate()
            process.wait(timeout=10)
            assert connection.recv(1) == b""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_passwords_leave_no_memory_with_the_threads_that_compared_them(app, environment, tmp_path):
    """Each comparison takes 19 MiB for a moment."""

    def log_in(number: int) -> int:
        body = {"mobile": f"+1415555{number:04}", "password": "correct horse"}
        return web.call("POST", "/auth/login", json=body).status_code

    with serving(environment, tmp_path / "web.log") as web, ThreadPoolExecutor(8) as pool:
        [process] = map(psutil.Process, descendants(web.pid))
        assert log_in(0) == 401
        before = process.memory_full_info().uss
        assert 401 in {*pool.map(log_in, range(1, 100))}
        assert (process.memory_full_info().uss - before) / MEBIBYTE < 60
