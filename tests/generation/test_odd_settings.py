"""Settings that contradict each other: whatever they say, a reply is stored once, and nobody waits for ever."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from app.core.transactions import transaction
from app.generation import state
from sandbox.stack.processes import wait_until
from tests.celery_process import celery_process
from tests.web_process import serving

PEOPLE = 6


@pytest.fixture
def make_odd_room(
    make_app: Callable[..., Flask],
    app: Flask,
    make_redis_url: Callable[[], str],
    make_user: Callable[..., Any],
    make_runner_for: Callable[[Flask, Any], Any],
) -> Iterator[Callable[..., Any]]:
    """Make a room on an application with the test's own settings."""

    def make(**settings: Any) -> Any:
        odd, person = make_app(redis_url=make_redis_url(), **settings), make_user()
        person.client = odd.test_client()
        return make_runner_for(odd, person)

    yield make
    app.extensions["celery"].set_default()


def test_a_reply_may_take_longer_than_the_time_in_which_attempts_begin(make_odd_room):
    """GEMINI_TIMEOUT above REPLY_MAX_SECONDS: the attempt under way is not cut off."""
    room = make_odd_room(reply_max_seconds=0.1, gemini_timeout=10)
    reply = room.answer(room.runner, '[[sandbox: delay=1]] [[sandbox: say="At last."]]')
    assert (reply.status, reply.text) == ("completed", "At last.")


def test_an_attempt_that_took_all_of_the_time_is_not_made_again(make_odd_room):
    """GEMINI_TIMEOUT above REPLY_MAX_SECONDS: the reply fails, and costs nothing."""
    room = make_odd_room(reply_max_seconds=0.1, gemini_timeout=0.5)
    reply = room.answer(room.runner, "[[sandbox: hang]]")
    assert (reply.status, reply.error["code"], room.row(reply.id).attempt) == ("failed", "model_timeout", 1)
    assert room.used() == 0


def test_a_reply_whose_worker_died_is_generated_even_though_its_time_is_over(make_odd_room):
    """REPLY_LEASE_SECONDS above REPLY_MAX_SECONDS: a takeover is an attempt all the same."""
    room = make_odd_room(reply_max_seconds=1, reply_lease_seconds=300)
    reply_id = room.send("Hello")
    with room.app.app_context(), transaction():
        assert state.claim(reply_id, lease=timedelta(seconds=300))
    room.sql(
        "UPDATE messages SET lease_expires_at = lease_expires_at - interval '301 seconds',"
        " started_at = started_at - interval '301 seconds' WHERE id = :id",
        id=reply_id,
    )
    room.generate(room.runner, reply_id)
    assert (room.read(reply_id).status, room.row(reply_id).attempt) == ("completed", 2)


def test_one_database_connection_for_each_process_answers_everybody(
    own_environment, app, mobile_numbers, gemini, tmp_path
):
    """DATABASE_POOL_SIZE and REDIS_POOL_SIZE far below the threads: nobody holds a connection and waits for another."""
    variables = own_environment | {"DATABASE_POOL_SIZE": "1", "REDIS_POOL_SIZE": "2", "WEB_THREADS": "64"}
    with (
        celery_process("worker", variables, tmp_path / "worker.log"),
        serving(variables, tmp_path / "web.log") as web,
    ):
        tokens = [web.log_in(next(mobile_numbers))["access_token"] for _ in range(PEOPLE)]

        def answered(token: str) -> str:
            room = web.call("POST", "/chatroom", token=token, json={"title": "A room"}).headers["Location"]
            sent = web.call(
                "POST", f"{room}/message", token=token, json={"text": "Hello"}, headers={"Prefer": "wait=20"}
            )
            path = sent.headers["Location"]
            ended = wait_until(
                lambda: web.call("GET", path, token=token).json().get("status") == "completed", seconds=40
            )
            return "completed" if ended else sent.text

        with ThreadPoolExecutor(PEOPLE) as pool:
            assert list(pool.map(answered, tokens)) == ["completed"] * PEOPLE
