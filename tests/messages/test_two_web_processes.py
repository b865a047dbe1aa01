"""Held requests on two web processes: counted together, and sent to the other process when one ends."""

import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg2
import pytest
import redis
import requests
from flask import Flask

from app.core.broker import GENERATIONS
from sandbox.stack.processes import alive, wait_until
from tests.event_streams import events_of
from tests.web_process import WebProcess, serving

STREAMS_PER_USER = 2
GRACE_SECONDS = 30  # what platforms give between SIGTERM and SIGKILL


@pytest.fixture(scope="module")
def own_redis(make_redis_url: Callable[[], str]) -> str:
    return make_redis_url()


@pytest.fixture(scope="module")
def webs(
    environment: dict[str, str], migrated_app: Flask, own_redis: str, tmp_path_factory: Any
) -> Iterator[list[WebProcess]]:
    """Two web processes of one service, whose replies nobody generates."""
    variables = environment | {"STREAMS_PER_USER": str(STREAMS_PER_USER), "REDIS_URL": own_redis}
    folder = tmp_path_factory.mktemp("web")
    with ExitStack() as started:
        yield [started.enter_context(serving(variables, folder / f"web-{number}.log")) for number in range(2)]


class Client:
    """Somebody with a token, a chatroom and an unfinished reply."""

    def __init__(self, web: WebProcess, mobile: str) -> None:
        self.token = web.log_in(mobile)["access_token"]
        self.room = (
            f"/chatroom/{web.call('POST', '/chatroom', token=self.token, json={'title': 'A room'}).json()['id']}"
        )
        self.reply = self.send(web).headers["Location"]

    def send(self, web: WebProcess, **headers: str) -> requests.Response:
        return web.call("POST", f"{self.room}/message", token=self.token, json={"text": "Hello"}, headers=headers)

    def follow(self, web: WebProcess) -> requests.Response:
        return web.call("GET", f"{self.reply}/stream", token=self.token, stream=True)


@pytest.fixture
def client(app: Flask, webs: list[WebProcess], mobile_numbers: Iterator[str]) -> Client:
    return Client(webs[0], next(mobile_numbers))


def test_the_streams_of_a_user_on_two_processes_are_counted_together(webs, client):
    opened = [client.follow(web) for web in webs]
    assert [response.status_code for response in opened] == [200] * STREAMS_PER_USER
    for web in webs:
        refused = client.follow(web)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
    opened[0].close()

    def may_follow() -> bool:
        with client.follow(webs[1]) as again:
            return again.status_code == 200

    assert wait_until(may_follow, seconds=10)
    opened[1].close()


def test_a_prompt_whose_client_is_gone_before_its_answer_is_queued(app, webs, client, own_redis, postgres):
    """The task follows the answer, whether or not anybody is there to take it."""
    address, body = urlsplit(webs[0].url), b'{"text": "Hello"}'
    head = f"POST {client.room}/message HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {client.token}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with redis.Redis.from_url(own_redis) as broker, closing(psycopg2.connect(postgres.url)) as holder:
        before = broker.llen(GENERATIONS)
        cursor = holder.cursor()
        cursor.execute("SELECT FROM users FOR UPDATE")
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends by a reset
            connection.sendall(head.encode() + body)
            assert wait_until(lambda: holds_somebody_up(cursor), seconds=10)  # the prompt has been read
        holder.rollback()
        assert wait_until(lambda: broker.llen(GENERATIONS) == before + 1, seconds=10)


def holds_somebody_up(cursor: Any) -> bool:
    """Whether somebody waits for a lock that the cursor's transaction holds."""
    cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))")
    return bool(cursor.fetchone()[0])


def test_a_process_that_shuts_down_sends_streams_and_waits_to_another_one(webs, client, own_redis):
    ending, staying = webs
    stream = client.follow(ending)
    events = events_of(stream.iter_content(chunk_size=None))
    assert next(events).name == "status"
    with ThreadPoolExecutor() as threads, redis.Redis.from_url(own_redis) as valkey:
        waiting = threads.submit(client.send, ending, Prefer="wait=20")
        assert wait_until(lambda: blocked_readers(valkey) == 2, seconds=10)  # the stream and the request that waits
        os.kill(ending.pid, signal.SIGTERM)
        assert [event.name for event in events] == ["reconnect"]
        answer = waiting.result()
    assert (answer.status_code, answer.json()["reply"]["status"]) == (202, "queued")
    assert "Preference-Applied" not in answer.headers
    assert wait_until(lambda: not alive(ending.pid), seconds=GRACE_SECONDS)
    with client.follow(staying) as again:
        assert next(events_of(again.iter_content(chunk_size=None))).name == "status"
    assert staying.call("GET", answer.headers["Location"], token=client.token).json()["status"] == "queued"


def test_a_process_that_shuts_down_answers_requests_that_it_has_begun(app, own_environment, mobile_numbers, tmp_path):
    """The rest of a request comes five seconds after SIGTERM."""
    with serving(own_environment, tmp_path / "web.log") as web:
        client = Client(web, next(mobile_numbers))
        body = b'{"text": "Hello"}'
        headers = {"Authorization": f"Bearer {client.token}", "Content-Type": "application/json"}
        with closing(HTTPConnection(urlsplit(web.url).netloc, timeout=GRACE_SECONDS)) as connection:
            connection.putrequest("POST", f"{client.room}/message")
            for name, value in (headers | {"Content-Length": str(len(body)), "Expect": "100-continue"}).items():
                connection.putheader(name, value)
            connection.endheaders()
            assert b" 100 " in connection.sock.recv(1_000)
            os.kill(web.pid, signal.SIGTERM)
            assert wait_until(lambda: refuses_connections(web), seconds=9)  # clients go elsewhere, and wait for nothing
            connection.send(body[:1])  # a client that says nothing for ten seconds is given up
            assert not wait_until(lambda: not alive(web.pid), seconds=5)
            connection.send(body[1:])
            assert connection.getresponse().status == 202
        assert wait_until(lambda: not alive(web.pid), seconds=GRACE_SECONDS)


def test_a_process_that_shuts_down_answers_connections_that_wait_to_be_accepted(app, own_environment, tmp_path):
    with serving(own_environment, tmp_path / "web.log") as web, ThreadPoolExecutor() as threads:
        master = psutil.Process(web.pid)
        (process,) = master.children()
        process.suspend()
        sent = [threads.submit(web.call, "GET", "/healthz") for _ in range(5)]
        assert wait_until(lambda: waiting_clients(web) == len(sent), seconds=GRACE_SECONDS)
        for ending in (process, master):  # one is still suspended
            ending.terminate()
        process.resume()
        assert [answer.result().status_code for answer in sent] == [200] * len(sent)


def test_processes_whose_master_was_killed_shut_down_as_if_told_to(app, own_environment, mobile_numbers, tmp_path):
    with serving(own_environment, tmp_path / "web.log") as web:
        client = Client(web, next(mobile_numbers))
        with client.follow(web) as stream:
            events = events_of(stream.iter_content(chunk_size=None))
            assert next(events).name == "status"
            os.kill(web.pid, signal.SIGKILL)
            # Otherwise the next master could not take the port, and nobody would answer until all requests have ended.
            assert wait_until(lambda: refuses_connections(web), seconds=20)
            assert [event.name for event in events] == ["reconnect"]


def refuses_connections(web: WebProcess) -> bool:
    """Whether nobody listens at the address any more."""
    address = urlsplit(web.url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=GRACE_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def waiting_clients(web: WebProcess) -> int:
    """Return how many connections of ours to the address are open."""
    port = urlsplit(web.url).port
    connections = psutil.Process().net_connections(kind="tcp")
    return sum(one.raddr[1:] == (port,) and one.status == psutil.CONN_ESTABLISHED for one in connections)


def blocked_readers(valkey: redis.Redis) -> int:
    """Return how many connections to this database wait for events of a reply."""
    mine = str(valkey.get_connection_kwargs()["db"])
    clients = (client for client in valkey.client_list() if client["db"] == mine)
    return sum(client["cmd"] == "xread" and "b" in client["flags"] for client in clients)
