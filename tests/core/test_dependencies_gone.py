"""How the service behaves when PostgreSQL or Redis is killed, or frozen: it accepts connections and never answers."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
import redis
import requests

from sandbox.stack.postgres import PostgresServer
from sandbox.stack.processes import descendants, wait_until
from sandbox.stack.servers import Server, ValkeyServer
from tests.problems import assert_problem
from tests.servers import migrate
from tests.web_process import WebProcess, serving

ALL_AT_ONCE = 20
NO_ENDLESS_WAIT_SECONDS = 5  # where the contract names no time: time-outs are below it, on a slow machine too
ALL_THREADS = 32  # of the web process: more than it has database connections
# These ask no database, or check a signature first.
NEED_NO_DATABASE = {"/healthz", "/metrics", "/webhook/stripe"}


@pytest.fixture(scope="module")
def own_postgres(own_valkey: ValkeyServer) -> Iterator[PostgresServer]:
    with PostgresServer(durable=False) as server:
        migrate(server.url, redis_url=own_valkey.url)
        yield server


@pytest.fixture(scope="module")
def web(
    environment: dict[str, str], own_postgres: PostgresServer, own_valkey: ValkeyServer, tmp_path_factory: Any
) -> Iterator[WebProcess]:
    variables = environment | {"DATABASE_URL": own_postgres.url, "REDIS_URL": own_valkey.url}
    with serving(variables, tmp_path_factory.mktemp("web") / "web.log") as process:
        yield process


class Client:
    """Somebody with a token and a chatroom."""

    def __init__(self, web: WebProcess, mobile: str) -> None:
        self.web = web
        tokens = web.log_in(mobile)
        self.tokens = {"accessToken": tokens["access_token"], "refreshToken": tokens["refresh_token"]}
        self.room = f"/chatroom/{self.call('POST', '/chatroom', json={'title': 'A room'}).json()['id']}"

    def call(self, method: str, path: str, scheme: str = "accessToken", **kwargs: Any) -> requests.Response:
        return self.web.call(method, path, token=self.tokens[scheme], **kwargs)

    def send(self, *_: object) -> requests.Response:
        return self.call("POST", f"{self.room}/message", json={"text": "Hello"})


@pytest.fixture
def person(web: WebProcess, mobile_numbers: Iterator[str]) -> Client:
    return Client(web, next(mobile_numbers))


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """Freeze the server with all its processes: it is reachable, and silent."""
    leader = server.pid
    assert leader
    os.kill(leader, signal.SIGSTOP)  # first: from now on it starts no process, and one that ends keeps its id
    family = [leader, *descendants(leader)]
    try:
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in reversed(family):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def killed(server: Server) -> Iterator[None]:
    """Kill the server, as a crash does."""
    server.kill()
    try:
        yield
    finally:
        server.start()


GONE = pytest.mark.parametrize("gone", [killed, frozen])


def in_parallel(action: Callable[[Any], Any], things: Any) -> list[Any]:
    with ThreadPoolExecutor(ALL_THREADS) as threads:
        return list(threads.map(action, things))


def every_route(person: Client) -> list[tuple[str, str, dict[str, Any]]]:
    """Return each documented route that needs a database, with a valid request."""
    description = person.web.call("GET", "/openapi.json").json()
    routes = []
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            if method not in {"get", "post", "put", "patch", "delete"} or path in NEED_NO_DATABASE:
                continue
            request: dict[str, Any] = {}
            if security := operation.get("security"):
                request["headers_of"] = next(iter(security[0]))
            if body := operation.get("requestBody"):
                request["json"] = body["content"]["application/json"]["example"]
            room_id = person.room.rsplit("/", 1)[1]
            address = path.replace("{chatroom_id}", room_id)
            required = [one for one in operation.get("parameters", ()) if one["in"] == "query" and one.get("required")]
            address += "".join(f"?{one['name']}={one['schema']['example']}" for one in required)
            while "{" in address:
                start, end = address.index("{"), address.index("}")
                address = f"{address[:start]}{room_id}{address[end + 1 :]}"
            routes.append((method.upper(), address, request))
    assert len(routes) > 10
    return routes


def call_route(person: Client, route: tuple[str, str, dict[str, Any]]) -> requests.Response:
    method, address, request = route
    body = {"json": request["json"]} if "json" in request else {}
    if "headers_of" in request:
        return person.call(method, address, request["headers_of"], **body)
    return person.web.call(method, address, **body)


def rows_of(server: PostgresServer, query: str) -> int:
    connection = psycopg2.connect(server.url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]
    finally:
        connection.close()


ASKS_REDIS_ALONE = {("GET", "/models")}  # it caches the session


@GONE
def test_every_route_is_503_within_five_seconds_without_postgres(web, own_postgres, person, gone):
    routes = every_route(person)
    in_parallel(lambda _: person.call("GET", "/user/me"), range(ALL_AT_ONCE))  # open connections to lose
    with gone(own_postgres):
        for _ in ("on connections that were open", "on new connections"):
            for route, response in zip(
                routes, in_parallel(lambda route: call_route(person, route), routes), strict=True
            ):
                if route[:2] in ASKS_REDIS_ALONE:
                    assert response.status_code == 200, (route, response.text)
                    continue
                assert response.status_code == 503, (route, response.text)
                body = assert_problem(response, 503, "service_unavailable")
                assert "postgres" in body["detail"] if route[1] == "/readyz" else "postgres" not in body["detail"]
                assert response.took < 5, (route, response.took)
        assert web.call("GET", "/healthz").status_code == 200
    assert person.call("GET", "/user/me").status_code == 200
    assert web.call("GET", "/readyz").status_code == 200


@contextmanager
def read_only(own_postgres: PostgresServer) -> Iterator[None]:
    """Make PostgreSQL read-only, like a former primary whose place another server has taken."""
    with closing(psycopg2.connect(own_postgres.url)) as admin:
        admin.autocommit = True
        cursor = admin.cursor()
        cursor.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        cursor.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            cursor.execute("SET default_transaction_read_only = off")
            cursor.execute("ALTER SYSTEM RESET default_transaction_read_only")
            cursor.execute("SELECT pg_reload_conf()")


def test_prompts_are_503_while_postgres_is_read_only(own_postgres, person):
    with read_only(own_postgres):
        assert wait_until(lambda: person.send().status_code == 503, seconds=10)
        assert_problem(person.send(), 503, "service_unavailable")
    assert wait_until(lambda: person.send().status_code == 202, seconds=10)


def test_reads_work_while_postgres_is_read_only_even_when_the_sessions_use_is_due(own_postgres, own_valkey, person):
    with closing(psycopg2.connect(own_postgres.url)) as admin, admin.cursor() as cursor:
        cursor.execute("UPDATE auth_sessions SET last_used_at = now() - interval '6 minutes'")
        admin.commit()
    with read_only(own_postgres):
        assert wait_until(lambda: person.send().status_code == 503, seconds=10)
        for path in ("/chatroom", "/user/me", person.room, f"{person.room}/messages", "/user/usage", "/models"):
            redis.Redis.from_url(own_valkey.url).flushdb()
            assert person.call("GET", path).status_code == 200, path
    assert wait_until(lambda: person.send().status_code == 202, seconds=10)


def test_running_query_is_given_up_when_postgres_freezes(own_postgres, person):
    """The server freezes while the message waits for its user's row, which another transaction holds."""
    holder = psycopg2.connect(own_postgres.url)
    answers: list[requests.Response] = []
    try:
        with holder.cursor() as cursor:
            cursor.execute("SELECT id FROM users FOR UPDATE")
        thread = threading.Thread(target=lambda: answers.append(person.send()))
        thread.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        deadline = time.monotonic() + 5
        while rows_of(own_postgres, waiting) == 0:
            assert time.monotonic() < deadline
        with frozen(own_postgres):
            thread.join(10)
    finally:
        holder.rollback()
        holder.close()
    assert_problem(answers[0], 503, "service_unavailable")
    assert answers[0].took < 5
    assert person.call("GET", f"{person.room}/messages").json()["items"] == []


@GONE
def test_messages_are_503_without_redis_and_nothing_is_stored_or_spent(own_postgres, own_valkey, person, gone):
    stored, charged = "SELECT count(*) FROM messages", "SELECT count(*) FROM prompt_charges"
    before = rows_of(own_postgres, stored), rows_of(own_postgres, charged)
    with gone(own_valkey):
        for response in [person.send(), *in_parallel(person.send, range(ALL_AT_ONCE))]:
            assert_problem(response, 503, "service_unavailable")
            assert response.took < 3, response.took
        assert person.call("GET", f"{person.room}/messages").json()["items"] == []
        assert person.call("GET", "/user/usage").json()["used"] == 0
    assert (rows_of(own_postgres, stored), rows_of(own_postgres, charged)) == before
    response = person.send()
    assert response.status_code == 202
    assert response.headers["RateLimit-Remaining"] == "4"
    assert person.call("DELETE", person.room).status_code == 204


@GONE
def test_everything_but_messages_works_without_redis(own_valkey, person, web, mobile_numbers, gone):
    person.call("GET", "/chatroom")
    with gone(own_valkey):
        other = Client(web, next(mobile_numbers))
        titles = [room["title"] for room in other.call("GET", "/chatroom").json()["items"]]
        assert titles == ["A room"]
        answers = [
            other.call("GET", "/user/me"),
            other.call("PATCH", "/user/me", json={"name": "Ada"}),
            other.call("GET", "/user/usage"),
            other.call("GET", other.room),
            other.call("GET", f"{other.room}/messages"),
            other.call("PATCH", other.room, json={"title": "Another name"}),
            other.call("GET", "/chatroom"),
            other.call("DELETE", other.room),
        ]
        assert [answer.status_code for answer in answers] == [200] * 7 + [204]
        assert answers[6].json()["items"][0]["title"] == "Another name"
        assert max(answer.took for answer in answers) < NO_ENDLESS_WAIT_SECONDS
        ready = web.call("GET", "/readyz")
        assert "redis" in assert_problem(ready, 503, "service_unavailable")["detail"]
        assert ready.took < 5
    assert web.call("GET", "/readyz").status_code == 200


@GONE
def test_lists_come_from_postgres_without_redis(own_valkey, person, gone):
    assert person.call("GET", "/chatroom").headers["X-Cache"] == "MISS"
    assert person.call("GET", "/chatroom").headers["X-Cache"] == "HIT"
    with gone(own_valkey):
        for response in in_parallel(lambda _: person.call("GET", "/chatroom"), range(ALL_THREADS)):
            assert response.status_code == 200, response.text
            assert response.headers["X-Cache"] == "MISS"
            assert [room["title"] for room in response.json()["items"]] == ["A room"]
            assert response.took < NO_ENDLESS_WAIT_SECONDS, response.took


def test_readiness_names_both_when_both_are_gone(own_postgres, own_valkey, web):
    with frozen(own_valkey), frozen(own_postgres):
        for path in ("/healthz", "/docs", "/openapi.json"):
            response = web.call("GET", path)
            assert response.status_code == 200
            assert response.took < NO_ENDLESS_WAIT_SECONDS
        response = web.call("GET", "/readyz")
    assert assert_problem(response, 503, "service_unavailable")["detail"] == "Does not answer: postgres, redis."
    assert response.took < 5


def test_a_prompt_is_503_when_redis_refuses_to_write(own_valkey, person):
    """A full Redis answers, but with an error."""
    with redis.Redis.from_url(own_valkey.url) as client:
        client.config_set("maxmemory", "1")
        try:
            response = person.send()
        finally:
            client.config_set("maxmemory", "0")
    assert_problem(response, 503, "service_unavailable")
    assert person.call("GET", f"{person.room}/messages").json()["items"] == []
    assert person.call("GET", "/user/usage").json()["used"] == 0
