"""Worker and beat as real processes: many threads, two of each, Google's newer SDK, and SIGTERM in the middle."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import psutil
import pytest
import redis
from flask import Flask
from sqlalchemy import text

from app.core.db import db
from app.generation.worker import FINISH_WITHIN_SECONDS
from sandbox.stack.processes import wait_until
from tests.celery_process import celery_process
from tests.event_streams import events_of, names, text_of

THREADS, CONNECTIONS = 128, 20
USERS = 16
PATIENCE_SECONDS = 60
GRACE_SECONDS = 30  # what platforms give between SIGTERM and SIGKILL

Start = Callable[..., AbstractContextManager[psutil.Process]]


@pytest.fixture(scope="module")
def own_redis(make_redis_url: Callable[[], str]) -> str:
    return make_redis_url()


@pytest.fixture(scope="module")
def start(environment: dict[str, str], migrated_app: Flask, own_redis: str, tmp_path_factory: Any) -> Start:
    """Start one of Celery's processes until the block ends. Its sweeps find too much rather than too little."""
    own = {"REDIS_URL": own_redis, "WORKER_CONCURRENCY": str(THREADS), "DATABASE_POOL_SIZE": str(CONNECTIONS)}
    often = {"REPLY_SWEEP_SECONDS": "0.5", "REPLY_REQUEUE_AFTER_SECONDS": "1", "GEMINI_TIMEOUT": "60"}

    @contextmanager
    def run(name: str, **variables: str) -> Iterator[psutil.Process]:
        log_file = tmp_path_factory.mktemp(name) / f"{name}.log"
        with celery_process(name, environment | own | often | variables, log_file) as process:
            sign = " ready." if name == "worker" else "Sending due task"
            assert wait_until(lambda: sign in log_file.read_text(), seconds=30), log_file.read_text()
            yield process

    return run


@pytest.fixture(scope="module")
def genai_worker(start: Start) -> Iterator[psutil.Process]:
    with start("worker", GEMINI_SDK="google-genai") as process:
        yield process


@pytest.fixture
def service(app: Flask, make_app: Callable[..., Flask], own_redis: str) -> Iterator[Flask]:
    yield make_app(redis_url=own_redis, basic_daily_prompts=1_000)
    app.extensions["celery"].set_default()


@pytest.fixture
def people(service: Flask, make_user: Callable[..., Any]) -> list[Any]:
    everybody = [make_user() for _ in range(USERS)]
    for person in everybody:
        person.client = service.test_client()
    return everybody


def send(person: Any, prompt: str = "Hello", **fields: Any) -> str:
    """Send a prompt in a new room. Returns the reply's path."""
    answer = person.post(f"{person.make_chatroom()}/message", json={"text": prompt, **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.headers["Location"])


def rows(service: Flask) -> list[tuple[str, int, int, int]]:
    """Return each reply's status, attempts and failures, and how many prompts it cost."""
    query = """SELECT status, attempt, failures, (SELECT count(*) FROM prompt_charges
        WHERE reply_id = messages.id AND given_back_at IS NULL) FROM messages WHERE role = 'model'"""
    with service.app_context():
        return [tuple(row) for row in db.session.execute(text(query))]


def all_completed(service: Flask) -> bool:
    return all(status == "completed" for status, *_ in rows(service))


def test_a_worker_on_google_genai_makes_whole_replies_and_streamed_ones(genai_worker, people, gemini):
    person = people[0]
    room = person.make_chatroom()
    asked = {"text": '[[sandbox: say="Hello, you."]]'}
    reply = person.post(f"{room}/message", json=asked, headers={"Prefer": "wait=20"}).json["reply"]
    assert (reply["status"], reply["text"], reply["model"]) == ("completed", "Hello, you.", "gemini-3.5-flash")
    assert reply["usage"]["output_tokens"] > 0

    path = send(person, '[[sandbox: pace=0.05 say="One two three four."]]', stream=True)
    response = person.get(f"{path}/stream")
    events = list(events_of(response.response))
    response.close()
    assert names(events).count("delta") > 1
    assert events[-1].name == "completed"
    assert text_of(events) == person.get(path).json["text"] == "One two three four."

    blocked = person.post(f"{room}/message", json={"text": "[[sandbox: block]]"}, headers={"Prefer": "wait=20"})
    assert blocked.json["reply"]["error"]["code"] == "blocked_by_safety"


def test_all_threads_of_a_worker_end_at_once_on_few_connections(genai_worker, service, people, gemini):
    gemini.clear_requests()
    gemini.behave(hang=True)
    for number in range(THREADS):
        send(people[number % USERS])
    gemini.wait_for(in_flight_at_least=THREADS, timeout=PATIENCE_SECONDS)
    gemini.reset()
    assert wait_until(lambda: all_completed(service), seconds=PATIENCE_SECONDS), rows(service)
    assert rows(service) == [("completed", 1, 0, 1)] * THREADS
    assert gemini.stats()["calls"] == THREADS


def test_two_workers_and_two_beats_do_nothing_twice(genai_worker, start, service, people, gemini):
    """Sweeps come all the time, and each reply takes longer than a task needs to count as lost."""
    gemini.clear_requests()
    gemini.behave(delay=1.5)
    with ExitStack() as started:
        for name in ("worker", "beat", "beat"):
            started.enter_context(start(name))
        rooms = [(person, person.make_chatroom()) for person in people]
        for person, room in rooms:
            for _ in range(2):
                assert person.post(f"{room}/message", json={"text": "Hello"}).status_code == 202
        assert wait_until(lambda: all_completed(service), seconds=PATIENCE_SECONDS), rows(service)
    assert rows(service) == [("completed", 1, 0, 1)] * (2 * USERS)
    assert gemini.stats()["calls"] == 2 * USERS


def test_a_worker_that_shuts_down_hands_its_replies_to_another_one(genai_worker, start, service, people, gemini):
    gemini.clear_requests()
    gemini.behave(hang=True, times=USERS)
    for person in people:
        send(person)
    gemini.wait_for(in_flight_at_least=USERS, timeout=PATIENCE_SECONDS)
    with start("worker"):
        told = time.monotonic()
        genai_worker.send_signal(signal.SIGTERM)
        assert wait_until(lambda: all_completed(service), seconds=PATIENCE_SECONDS), rows(service)
        assert time.monotonic() - told >= FINISH_WITHIN_SECONDS, "what its calls are given"
        assert rows(service) == [("completed", 2, 0, 1)] * USERS  # released is not failed
        assert wait_until(lambda: ended(genai_worker), seconds=GRACE_SECONDS)


def test_a_worker_that_shuts_down_begins_no_reply_and_ends_what_it_began(start, service, people, own_redis, gemini):
    """This is the last test of the file, because no other worker may listen."""
    gemini.clear_requests()
    gemini.behave(hang=True)
    with start("worker") as worker, redis.Redis.from_url(own_redis) as valkey:
        send(people[0])
        gemini.wait_for(in_flight_at_least=1, timeout=PATIENCE_SECONDS)
        worker.send_signal(signal.SIGTERM)
        assert wait_until(lambda: not asks_for_tasks(valkey), seconds=20)  # one second, but more on a busy machine
        send(people[1])
        gemini.reset()
        assert wait_until(lambda: ended(worker), seconds=GRACE_SECONDS)
    assert sorted(rows(service)) == [("completed", 1, 0, 1), ("queued", 0, 0, 1)]
    assert gemini.stats()["calls"] == 1


def asks_for_tasks(valkey: redis.Redis) -> bool:
    """Whether a worker waits at this Valkey database. A worker asks anew each second."""
    number = str(valkey.get_connection_kwargs()["db"])
    return any(one["db"] == number and one["cmd"] == "brpop" and "b" in one["flags"] for one in valkey.client_list())


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
