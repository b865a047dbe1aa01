"""Nobody waits for Redis while holding a database connection, and nobody waits again for a silent Redis."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from redis.exceptions import TimeoutError as RedisTimeout
from sqlalchemy import Engine, text

from app.chatrooms.models import Status
from app.core import redis as redis_clients
from app.core.broker import TIMEOUTS
from app.core.db import db
from app.streaming.events import Entry, publish
from sandbox.stack.processes import wait_until
from sandbox.stack.servers import ValkeyServer
from tests.core.test_dependencies_gone import frozen
from tests.event_streams import Stream, names
from tests.people import age_codes
from tests.problems import assert_problem

LEASED = """UPDATE messages SET status = 'generating', attempt = 1, lease_expires_at = now() + interval '1 minute'
            WHERE status = 'queued'"""
BUDGETS = {"codes_per_hour": 1_000, "wrong_codes_per_hour": 1_000}
POOL_SIZE = 2
MANY = 8 * POOL_SIZE


class Tap:
    """Stands before Valkey and notes each command, and how many database connections are checked out then."""

    def __init__(self, url: str) -> None:
        self.asked: list[tuple[bytes, int]] = []
        self.engine: Engine | None = None
        self.is_silent = False
        self.falls_silent_at: bytes | None = None
        target = urlsplit(url)
        self.valkey = (target.hostname, target.port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.replace(f":{target.port}", f":{self.listener.getsockname()[1]}")

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # closed
                return
            valkey = socket.create_connection(self.valkey)
            threading.Thread(target=self.pass_on, args=(client, valkey, True), daemon=True).start()
            threading.Thread(target=self.pass_on, args=(valkey, client, False), daemon=True).start()

    def pass_on(self, source: socket.socket, sink: socket.socket, is_question: bool) -> None:
        while data := received(source):
            if is_question and self.engine is not None:
                self.asked.append((data, self.engine.pool.checkedout()))
            self.is_silent |= self.falls_silent_at is not None and self.falls_silent_at in data
            if not self.is_silent:
                sink.sendall(data)
        sink.close()

    def connections_at(self, word: bytes) -> list[int]:
        """Return how many database connections were checked out at each command that contains the word."""
        return [connections for question, connections in self.asked if word in question]


def received(source: socket.socket) -> bytes:
    try:
        return source.recv(65_536)
    except OSError:
        return b""


@contextmanager
def tapped(url: str) -> Iterator[Tap]:
    tap = Tap(url)
    thread = threading.Thread(target=tap.serve, daemon=True)
    thread.start()
    yield tap
    tap.listener.close()


def call(app, person, method, path, **kwargs):
    headers = {"Authorization": f"Bearer {person.access_token}"} | kwargs.pop("headers", {})
    return app.test_client().open(path, method=method, headers=headers, **kwargs)


def ask_for_everything(app, person) -> None:
    """Use Redis in each way that a route does: limits, budgets, lists, prompts, pieces of replies, health."""

    def ask(method, path, status, **kwargs):
        answer = call(app, person, method, path, **kwargs)
        assert answer.status_code == status, (method, path, answer.text)
        return answer

    room = f"/chatroom/{ask('POST', '/chatroom', 201, json={'title': 'A room'}).json['id']}"
    assert [ask("GET", "/chatroom", 200).headers["X-Cache"] for _ in range(2)] == ["MISS", "HIT"]
    ask("PATCH", room, 200, json={"title": "Another"})
    reply = ask("POST", f"{room}/message", 202, json={"text": "Hello"}).json["reply"]
    message = f"{room}/messages/{reply['id']}"
    with app.app_context():
        db.session.execute(text(LEASED))
        db.session.commit()
    stream = Stream(ask("GET", f"{message}/stream", 200))
    assert next(stream).name == "status"
    ask("POST", f"{message}/cancel", 200)
    assert names(stream) == ["canceled"]
    ask("POST", f"{message}/retry", 202)
    ask("POST", f"{message}/cancel", 200)
    ask("DELETE", room, 204)
    ask("GET", "/readyz", 200)
    ask("POST", "/auth/send-otp", 202, json={"mobile": f"+1415666{ask_for_everything.number:04}"})
    ask("POST", "/auth/verify-otp", 401, json={"mobile": "+14156660000", "otp": "no"})
    new_mobile = {"new_mobile": f"+1415667{ask_for_everything.number:04}"}
    age_codes(app, person.mobile, seconds=61)
    ask("POST", "/auth/change-mobile", 202, json=new_mobile)
    ask("POST", "/auth/change-mobile/verify", 401, json=new_mobile | {"otp": "no", "current_otp": "no"})
    ask_for_everything.number += 1


ask_for_everything.number = 1000


def test_only_the_quota_asks_redis_while_holding_a_database_connection(make_app, make_redis_url, user):
    with tapped(make_redis_url()) as tap:
        app = make_app(redis_url=tap.url, rate_limit_per_minute=1_000, basic_daily_prompts=100, **BUDGETS)
        ask_for_everything(app, user)  # opens the connections and loads the scripts
        with app.app_context():
            tap.engine = db.engine
        ask_for_everything(app, user)
    holding = [question for question, connections in tap.asked if connections]
    assert [question for question in holding if b"prompts/" not in question] == []
    assert len(holding) >= 2, "the tap sees connections"
    assert len(tap.asked) > len(holding) + 20
    assert tap.connections_at(b"XREAD"), "an open stream"


def test_a_request_that_waits_for_its_reply_holds_no_connection(make_app, make_redis_url, user):
    """This also holds when an end is published that did not happen: the request reads the reply, and waits on."""
    with tapped(make_redis_url()) as tap, ThreadPoolExecutor() as threads:
        app = make_app(redis_url=tap.url)
        room = f"/chatroom/{call(app, user, 'POST', '/chatroom', json={'title': 'A room'}).json['id']}"
        with app.app_context():
            tap.engine = db.engine
        prompt = {"json": {"text": "Hello"}, "headers": {"Prefer": "wait=3"}}
        waiting = threads.submit(call, app, user, "POST", f"{room}/message", **prompt)
        assert wait_until(lambda: tap.connections_at(b"XREAD"), seconds=10)
        [reply_id] = re.findall(r"reply:(\S+):events", tap.asked[-1][0].decode())
        with app.app_context():
            publish(UUID(reply_id), Entry(1, status=Status.CANCELED))
        assert waiting.result().status_code == 202
    assert set(tap.connections_at(b"XREAD")) == {0}
    assert len(tap.connections_at(b"XREAD")) >= 2, "it waited on"


@pytest.mark.processes
def test_silent_redis_does_not_use_up_the_database_connections(make_app, make_user):
    with ValkeyServer(append_only=False) as valkey:
        limits = {"rate_limit_per_minute": 0}
        app = make_app(redis_url=valkey.url, database_pool_size=POOL_SIZE, **limits)
        people = [make_user() for _ in range(2)]
        room = f"/chatroom/{call(app, people[0], 'POST', '/chatroom', json={'title': 'A room'}).json['id']}"
        wrong_code = {"mobile": people[0].mobile, "otp": "no"}
        with frozen(valkey), ThreadPoolExecutor(4 * MANY) as threads:
            sent = [
                threads.submit(call, app, people[0], "POST", f"{room}/message", json={"text": "Hello"})
                for _ in range(MANY)
            ]
            others = [
                threads.submit(call, app, person, method, path, **kwargs)
                for person in people
                for method, path, kwargs in (
                    ("GET", "/user/me", {}),
                    ("GET", "/chatroom", {}),
                    ("GET", "/user/usage", {}),
                    ("POST", "/auth/verify-otp", {"json": wrong_code}),
                )
                for _ in range(MANY // 4)
            ]
            for answer in (future.result() for future in sent):
                assert_problem(answer, 503, "service_unavailable")
            assert {answer.result().status_code for answer in others} == {200, 401}
        assert call(app, people[0], "POST", f"{room}/message", json={"text": "Hello"}).status_code == 202


def test_silent_redis_is_not_asked_again_until_a_probe_is_answered(make_app, make_redis_url, user, monkeypatch):
    """Requests that can do without Redis skip it. Of the others one at a time probes it, and lets all in again."""
    monkeypatch.setitem(TIMEOUTS, "socket_timeout", 2)
    with tapped(make_redis_url()) as tap:
        app = make_app(redis_url=tap.url, rate_limit_per_minute=1_000)
        call(app, user, "GET", "/chatroom")
        with app.app_context():
            tap.engine = db.engine
        tap.is_silent = True
        assert call(app, user, "GET", "/user/me").status_code == 200
        assert tap.asked
        tap.asked.clear()
        tap.is_silent = False
        assert [call(app, user, "GET", "/chatroom").headers["X-Cache"] for _ in range(2)] == ["MISS", "MISS"]
        assert call(app, user, "GET", "/user/me").status_code == 200
        assert tap.asked == []
        assert call(app, user, "GET", "/readyz").status_code == 200
        assert call(app, user, "GET", "/chatroom").headers["X-Cache"] == "HIT"


def test_another_request_may_probe_after_a_probe_that_was_not_answered():
    breaker = redis_clients.RedisBreaker()
    for _ in range(3):
        with pytest.raises(RedisTimeout), breaker.guard(probing=True):
            raise RedisTimeout


def time_out() -> None:
    raise RedisTimeout


def test_prompts_and_retries_find_out_at_once_that_redis_answers_again(make_app, make_redis_url, user):
    """They need Redis, so they do not wait until the others ask it again."""
    app = make_app(redis_url=make_redis_url())
    breaker = app.extensions["redis_breaker"]
    room = f"/chatroom/{call(app, user, 'POST', '/chatroom', json={'title': 'A room'}).json['id']}"
    reply = call(app, user, "POST", f"{room}/message", json={"text": "Hello"}).json["reply"]
    assert call(app, user, "POST", f"{room}/messages/{reply['id']}/cancel").status_code == 200
    for path, body in ((f"{room}/messages/{reply['id']}/retry", None), (f"{room}/message", {"text": "Hello"})):
        with pytest.raises(RedisTimeout), breaker.guard(probing=True):
            raise RedisTimeout
        assert breaker.is_open
        assert call(app, user, "POST", path, json=body).status_code == 202
        assert not breaker.is_open


def test_requests_that_wait_for_a_silent_redis_at_once_log_it_once(caplog):
    breaker = redis_clients.RedisBreaker()
    with ExitStack() as asking:
        for _ in range(MANY):
            asking.enter_context(pytest.raises(RedisTimeout))
            asking.enter_context(breaker.guard(probing=False))
            asking.callback(time_out)
    assert caplog.text.count("Redis timed out") == 1


def test_one_request_probes_a_silent_redis_and_the_others_do_not_wait(make_app, make_redis_url, user, monkeypatch):
    monkeypatch.setitem(TIMEOUTS, "socket_timeout", 3)
    with tapped(make_redis_url()) as tap, ThreadPoolExecutor(MANY) as threads:
        app = make_app(redis_url=tap.url)
        room = f"/chatroom/{call(app, user, 'POST', '/chatroom', json={'title': 'A room'}).json['id']}"
        tap.is_silent = True
        assert call(app, user, "GET", "/user/me").status_code == 200
        with app.app_context():
            tap.engine = db.engine
        tap.is_silent, tap.falls_silent_at = False, b"PING"
        together = threading.Barrier(MANY)

        def send(_: int) -> float:
            together.wait()
            began = time.monotonic()
            answer = call(app, user, "POST", f"{room}/message", json={"text": "Hello"})
            assert_problem(answer, 503, "service_unavailable")
            return time.monotonic() - began

        *others, last = sorted(threads.map(send, range(MANY)))
    assert len(tap.connections_at(b"PING")) == 1
    assert max(others) < 3 <= last, "one alone waits for an answer"


def test_silent_redis_is_asked_again_after_five_seconds(make_app, make_redis_url, user, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: 1_000.0)
    monkeypatch.setattr(redis_clients, "time", clock)
    monkeypatch.setitem(TIMEOUTS, "socket_timeout", 2)
    with tapped(make_redis_url()) as tap:
        app = make_app(redis_url=tap.url)
        call(app, user, "GET", "/chatroom")
        tap.is_silent = True
        assert call(app, user, "GET", "/chatroom").headers["X-Cache"] == "MISS"
        tap.is_silent = False
        for seconds, cached in ((4.9, "MISS"), (5.0, "HIT")):
            clock.monotonic = lambda seconds=seconds: 1_000.0 + seconds
            assert call(app, user, "GET", "/chatroom").headers["X-Cache"] == cached


def test_redis_that_falls_silent_while_the_quota_counts_costs_one_wait_and_no_prompt(make_app, make_redis_url, user):
    """The quota counts under the lock of the user's row. Requests that wait for the row must not wait for Redis too."""
    with tapped(make_redis_url()) as tap:
        app = make_app(redis_url=tap.url, database_pool_size=POOL_SIZE)
        room = f"/chatroom/{call(app, user, 'POST', '/chatroom', json={'title': 'A room'}).json['id']}"
        assert call(app, user, "POST", f"{room}/message", json={"text": "Hello"}).status_code == 202
        with app.app_context():
            tap.engine = db.engine
        tap.falls_silent_at = b"prompts/"
        with ThreadPoolExecutor(2 * MANY) as threads:
            sent = [
                threads.submit(call, app, user, "POST", f"{room}/message", json={"text": "Hello"}) for _ in range(MANY)
            ]
            others = [threads.submit(call, app, user, "GET", "/user/usage") for _ in range(MANY)]
            for answer in (future.result() for future in sent):
                assert_problem(answer, 503, "service_unavailable")
            assert [(answer.result().status_code, answer.result().json["used"]) for answer in others] == [
                (200, 1)
            ] * MANY
        assert len([question for question, _ in tap.asked if b"prompts/" in question]) == 1
        assert len(call(app, user, "GET", f"{room}/messages").json["items"]) == 2


def test_a_limit_is_lifted_when_redis_falls_silent_before_it_says_when_the_limit_ends(make_app, make_redis_url, user):
    with tapped(make_redis_url()) as tap:
        app = make_app(redis_url=tap.url, rate_limit_per_minute=1)
        assert [call(app, user, "GET", "/user/me").status_code for _ in range(2)] == [200, 429]
        with app.app_context():
            tap.engine = db.engine
        tap.falls_silent_at = b"TTL"
        assert call(app, user, "GET", "/user/me").status_code == 200
        assert tap.is_silent
