"""One process opens as many connections to Redis as its settings say, however many threads it has."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from flask import Flask
from kombu import pools
from limits import RateLimitItemPerMinute

from app.core.redis_clients import cache, rate_limits, redis_client
from app.core.tasks import CHORES, enqueue

THREADS, POOL = 16, 2


@pytest.fixture
def redis_url(make_redis_url: Callable[[], str]) -> str:
    return make_redis_url()


@pytest.fixture
def small_app(make_app: Callable[..., Flask], redis_url: str) -> Flask:
    pools.reset()  # kombu's are the process's, and one that other tests' applications use cannot be made smaller
    return make_app(redis_url=redis_url, redis_pool_size=POOL, streams_per_process=3)


def at_once(app: Flask, use: Callable[[], Any]) -> list[Any]:
    """What comes of it in each of the threads, several times over."""

    def often(_: int) -> list[Any]:
        with app.app_context():
            return [use() for _ in range(20)]

    with ThreadPoolExecutor(THREADS) as pool:
        return [result for results in pool.map(often, range(THREADS)) for result in results]


def connections(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        mine, number = client.client_id(), url.rpartition("/")[2]
        return sum(one["db"] == number and int(one["id"]) != mine for one in client.client_list())


def test_commands_cache_and_limiter_share_the_connections_of_one_pool(small_app: Flask, redis_url: str) -> None:
    def use() -> tuple[bool, bool, bool]:
        hit = rate_limits().hit(RateLimitItemPerMinute(10_000), "somebody")
        return redis_client().ping(), cache.set("greeting", "hello"), hit  # type: ignore[return-value]

    assert set(at_once(small_app, use)) == {(True, True, True)}
    assert connections(redis_url) == POOL


def test_queueing_tasks_has_as_many_of_its_own(small_app: Flask, redis_url: str) -> None:
    at_once(small_app, lambda: enqueue("tests.nothing", "an-id"))
    with redis.Redis.from_url(redis_url) as client:
        assert client.llen(CHORES) == THREADS * 20
    assert connections(redis_url) <= POOL


def test_each_request_that_is_held_open_has_one_besides(small_app: Flask, redis_url: str) -> None:
    with small_app.app_context():
        pool = redis_client(blocking=True).connection_pool
        held = [pool.get_connection() for _ in range(3 + 1)]  # streams_per_process, and one that listens
        assert redis_client().ping()
        with pytest.raises(redis.ConnectionError):
            pool.get_connection()
        for connection in held:
            pool.release(connection)
    assert connections(redis_url) == 3 + 1 + 1


def test_who_finds_no_connection_is_answered_as_without_redis(small_app: Flask) -> None:
    with small_app.app_context():
        pool = redis_client().connection_pool
        held = [pool.get_connection() for _ in range(POOL)]
        assert small_app.test_client().get("/readyz").json["detail"] == "Does not answer: redis."
        for connection in held:
            pool.release(connection)
        assert small_app.test_client().get("/readyz").status_code == 200
