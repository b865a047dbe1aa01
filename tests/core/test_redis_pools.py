"""One process opens as many connections to Redis as its settings say, however many threads it has."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import redis
from flask import Flask
from kombu import pools
from limits import RateLimitItemPerMinute

from app.core import settings
from app.core.broker import CHORES, TIMEOUT_SECONDS
from app.core.celery import enqueue
from app.core.redis import MAX_BLOCK_SECONDS, cache, rate_limits, redis_client
from app.messages.service import acquire_wait_slot
from sandbox.stack.processes import wait_until
from sandbox.stand_ins import GeminiStandIn
from tests.celery_process import celery_process

THREADS, POOL = 8, 2
BUSY = 24


@pytest.fixture
def redis_url(make_redis_url: Callable[[], str]) -> str:
    return make_redis_url()


@pytest.fixture
def small_app(make_app: Callable[..., Flask], redis_url: str) -> Flask:
    # kombu's pools belong to the process, and a new limit resizes all of them. So those of other tests' applications
    # are forgotten first.
    pools.connections.clear()
    pools.producers.clear()
    return make_app(redis_url=redis_url, redis_pool_size=POOL, streams_per_process=3)


def at_once(app: Flask, use: Callable[[], Any]) -> list[Any]:
    """Call `use` several times in each of the threads. Returns the results."""

    def often(_: int) -> list[Any]:
        with app.app_context():
            return [use() for _ in range(20)]

    with ThreadPoolExecutor(THREADS) as pool:
        return [result for results in pool.map(often, range(THREADS)) for result in results]


@pytest.fixture
def threads_in_turn() -> Iterator[None]:
    """Make Python switch threads all the time, so that code that is not thread-safe fails."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def connections(redis_url: str) -> Callable[[], int]:
    """Count the connections that were made to the database since the test began."""
    number = redis_url.rpartition("/")[2]
    with redis.Redis.from_url(redis_url) as client:
        newest = client.client_id()

    def count() -> int:
        with redis.Redis.from_url(redis_url) as client:
            mine = client.client_id()
            return sum(one["db"] == number and newest < int(one["id"]) != mine for one in client.client_list())

    return count


def test_commands_cache_and_limiter_share_the_connections_of_a_pool(
    small_app: Flask, connections: Callable[[], int]
) -> None:
    def use() -> tuple[bool, bool, bool]:
        hit = rate_limits().hit(RateLimitItemPerMinute(10_000), "somebody")
        return redis_client().ping(), cache.set("greeting", "hello"), hit  # type: ignore[return-value]

    assert set(at_once(small_app, use)) == {(True, True, True)}
    assert connections() == POOL


def test_queueing_tasks_has_as_many_connections_of_its_own(
    small_app: Flask, connections: Callable[[], int], threads_in_turn: None
) -> None:
    """This holds even if all threads queue their first task at once."""
    at_once(small_app, lambda: enqueue("tests.nothing", "an-id"))
    assert connections() <= POOL
    with small_app.app_context():
        assert redis_client().llen(CHORES) == THREADS * 20


def test_the_time_out_of_a_blocking_read_is_longer_than_it_blocks(small_app: Flask) -> None:
    with small_app.app_context():
        held = redis_client(blocking=True).connection_pool.connection_kwargs
    assert held["socket_timeout"] == MAX_BLOCK_SECONDS + TIMEOUT_SECONDS


def test_each_held_request_has_a_connection_of_its_own(small_app: Flask, connections: Callable[[], int]) -> None:
    with small_app.app_context():
        pool = redis_client(blocking=True).connection_pool
        held = [pool.get_connection() for _ in range(3)]  # streams_per_process
        assert redis_client().ping()
        with pytest.raises(redis.ConnectionError):
            pool.get_connection()
        for connection in held:
            pool.release(connection)
    assert connections() == 3 + 1


def test_with_one_thread_no_stream_is_allowed_and_one_request_may_wait(
    make_app: Callable[..., Flask], redis_url: str
) -> None:
    with make_app(redis_url=redis_url, web_threads=1).app_context():
        assert settings().streams_allowed == 0
        with acquire_wait_slot(5) as seconds, acquire_wait_slot(5) as of_another:
            assert (seconds, of_another) == (5, 0)
        assert redis_client(blocking=True).ping()


def test_request_without_a_free_connection_is_answered_as_without_redis(small_app: Flask) -> None:
    with small_app.app_context():
        pool = redis_client().connection_pool
        held = [pool.get_connection() for _ in range(POOL)]
        assert small_app.test_client().get("/readyz").json["detail"] == "Does not answer: redis."
        for connection in held:
            pool.release(connection)
        assert small_app.test_client().get("/readyz").status_code == 200


def connections_to_redis(process: psutil.Process, variables: dict[str, str]) -> list[Any]:
    port = urlsplit(variables["REDIS_URL"]).port
    return [one for one in process.net_connections("tcp") if one.raddr and one.raddr.port == port]


def test_a_busy_worker_opens_two_connections_besides_its_pools(
    make_app: Callable[..., Flask],
    make_user: Callable[[], Any],
    own_environment: dict[str, str],
    gemini: GeminiStandIn,
    tmp_path: Path,
) -> None:
    """The two take tasks."""
    variables = own_environment | {"REDIS_POOL_SIZE": "4", "GEMINI_TIMEOUT": "100"}
    client = make_app(redis_url=variables["REDIS_URL"]).test_client()
    people = [make_user() for _ in range(BUSY)]
    for person in people:
        person.client = client
    log_file = tmp_path / "worker.log"
    with celery_process("worker", variables, log_file) as worker:
        assert wait_until(lambda: " ready." in log_file.read_text(), seconds=60), log_file.read_text()
        for person in people:
            sent = person.post(f"{person.make_chatroom()}/message", json={"text": "[[sandbox: hang]]"})
            assert sent.status_code == 202
        gemini.wait_for(in_flight_at_least=BUSY, timeout=60)
        assert 2 <= len(connections_to_redis(worker, variables)) <= 2 * 4 + 2
        gemini.reset()


def test_beat_opens_no_more_connections_than_two_pools_have(own_environment: dict[str, str], tmp_path: Path) -> None:
    """This holds however many tasks it has queued."""
    variables = own_environment | {"REDIS_POOL_SIZE": str(POOL), "REPLY_SWEEP_SECONDS": "0.5"}
    log_file = tmp_path / "beat.log"
    with celery_process("beat", variables, log_file) as beat:
        assert wait_until(lambda: log_file.read_text().count("Sending due task") > 2 * POOL, seconds=60)
        assert 1 <= len(connections_to_redis(beat, variables)) <= 2 * POOL
