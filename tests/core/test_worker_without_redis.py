"""Workers whose Redis is killed, cut off or full: they live on, lose nothing, and take tasks again."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import redis

from app.core.broker import CHORES, GENERATIONS
from app.core.celery import WORKERS
from app.core.clock import utc_now
from app.ops import totals as rollup
from sandbox.stack.processes import wait_until
from sandbox.stack.servers import ValkeyServer
from tests.celery_process import celery_process
from tests.core.test_connections_and_redis import tapped
from tests.queues import waiting_tasks

SLOTS = 2
PATIENCE_SECONDS = 30


@pytest.fixture
def broker(own_valkey: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_valkey.url) as client:
        yield client


class Worker:
    """A worker process with few slots."""

    def __init__(self, process: psutil.Process, log_file: Path) -> None:
        self.process, self.log_file = process, log_file

    def lines(self, words: str) -> int:
        return self.log_file.read_text().count(words)


@pytest.fixture(scope="module")
def start_worker(environment: dict[str, str], own_valkey: ValkeyServer, migrated_app: Any, tmp_path_factory: Any):
    """Start a worker on the module's own Valkey, until the block ends."""
    variables = environment | {"REDIS_URL": own_valkey.url, "WORKER_CONCURRENCY": str(SLOTS)}

    @contextmanager
    def start(**more: str) -> Iterator[Worker]:
        log_file = tmp_path_factory.mktemp("worker") / "worker.log"
        with celery_process("worker", variables | more, log_file) as process:
            assert wait_until(lambda: " ready." in log_file.read_text(), seconds=30), log_file.read_text()
            yield Worker(process, log_file)

    return start


@pytest.fixture(scope="module")
def two_workers(start_worker: Any) -> Iterator[list[Worker]]:
    with ExitStack() as started:
        yield [started.enter_context(start_worker()) for _ in range(2)]


@pytest.fixture
def person(app: Any, make_app: Any, make_user: Any, own_valkey: ValkeyServer) -> Iterator[Any]:
    """A user of a service on the module's own Valkey."""
    user = make_user()
    user.client = make_app(redis_url=own_valkey.url, basic_daily_prompts=100).test_client()
    yield user
    app.extensions["celery"].set_default()


def send(person: Any) -> str:
    """Send a prompt in a new room. Returns the reply's path."""
    answer = person.post(f"{person.make_chatroom()}/message", json={"text": "Hello"})
    assert answer.status_code == 202, answer.text
    return str(answer.headers["Location"])


def all_completed(person: Any, replies: list[str]) -> bool:
    return all(person.get(reply).json["status"] == "completed" for reply in replies)


def queue_ticks(app: Any, number: int) -> None:
    for _ in range(number):
        app.extensions["celery"].send_task("ops.tick")


def each_takes_tasks(app: Any, workers: list[Worker]) -> bool:
    """Whether every worker takes some of the tasks that are queued from now on."""
    before = [worker.lines("ops.tick(") for worker in workers]

    def taken() -> bool:
        queue_ticks(app, 4)
        return all(worker.lines("ops.tick(") > count for worker, count in zip(workers, before, strict=True))

    return bool(wait_until(taken, seconds=PATIENCE_SECONDS))


def test_workers_take_tasks_again_when_redis_died_while_all_their_slots_were_taken(
    own_valkey, two_workers, person, gemini
):
    """The replies in the slots end while Redis cannot be told, so freeing a slot must not depend on Redis."""
    service = person.client.application
    assert each_takes_tasks(service, two_workers)
    gemini.behave(hang=True)
    replies = [send(person) for _ in range(SLOTS * 2)]
    gemini.wait_for(in_flight_at_least=len(replies))
    own_valkey.kill()
    gemini.reset()
    assert wait_until(lambda: all_completed(person, replies), seconds=PATIENCE_SECONDS)
    own_valkey.start()
    assert each_takes_tasks(service, two_workers)


def test_workers_take_tasks_again_when_their_connections_are_cut_under_load(two_workers, person, gemini, broker):
    gemini.behave(delay=0.2)
    replies = []
    for _ in range(8):
        replies += [send(person) for _ in range(SLOTS)]
        broker.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert each_takes_tasks(person.client.application, two_workers)
    assert wait_until(lambda: all_completed(person, replies) or sweep(person), seconds=PATIENCE_SECONDS)


def test_a_worker_whose_connection_was_cut_leaves_what_it_has_no_slot_for_to_others(
    start_worker, own_valkey, person, make_app, gemini
):
    """Celery counts the tasks of the new connection only, although those of the old one still have their slots."""
    url = f"{own_valkey.url.removesuffix('/0')}/1"  # the other workers take nothing from this database
    own = {"REDIS_URL": url, "GEMINI_TIMEOUT": "60"}
    person.client = make_app(redis_url=url, basic_daily_prompts=100).test_client()
    with redis.Redis.from_url(url) as broker, start_worker(**own) as worker:
        gemini.behave(hang=True)
        replies = [send(person)]
        gemini.wait_for(in_flight_at_least=1)
        broker.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert wait_until(lambda: worker.lines("Connection to broker lost") > 0, seconds=PATIENCE_SECONDS)
        replies += [send(person) for _ in range(SLOTS)]  # one more than it has slots left
        gemini.wait_for(in_flight_at_least=SLOTS)
        with start_worker(**own):
            gemini.wait_for(in_flight_at_least=len(replies))
            gemini.reset()
            assert wait_until(lambda: all_completed(person, replies), seconds=PATIENCE_SECONDS)


def test_a_worker_takes_tasks_again_after_its_connection_died_without_a_sign(start_worker, own_valkey, person):
    """As when Redis' machine is lost, or a firewall forgets the connection: nobody closes it, and nothing comes."""
    with tapped(own_valkey.url) as tap, start_worker(REDIS_URL=tap.url) as worker:
        assert each_takes_tasks(person.client.application, [worker])
        tap.falls_silent_at = b"BRPOP"
        assert wait_until(lambda: tap.is_silent, seconds=PATIENCE_SECONDS)
        tap.falls_silent_at, tap.is_silent = None, False  # new connections work, but that question is lost
        began = time.monotonic()
        assert each_takes_tasks(person.client.application, [worker])
        assert time.monotonic() - began < 15


def sweep(person: Any) -> bool:
    """Have lost tasks queued again, as beat does."""
    person.client.application.extensions["celery"].send_task("messages.sweep")
    return False


def test_workers_empty_the_queue_of_a_full_redis_which_takes_no_prompts(two_workers, person, gemini, broker):
    gemini.behave(hang=True)
    replies = [send(person) for _ in range(SLOTS * 4)]  # twice as many as there are slots
    gemini.wait_for(in_flight_at_least=SLOTS * 2)
    room = person.make_chatroom()
    used = person.get("/user/usage").json["used"]
    tracebacks = [worker.lines("Traceback") for worker in two_workers]
    broker.config_set("maxmemory", 1)
    try:
        answer = person.post(f"{room}/message", json={"text": "Hello"})
        assert (answer.status_code, answer.json["code"]) == (503, "service_unavailable")
        assert person.get(f"{room}/messages").json["items"] == []
        assert person.get("/user/usage").json["used"] == used
        gemini.reset()
        assert wait_until(lambda: all_completed(person, replies), seconds=PATIENCE_SECONDS)
        assert waiting_tasks(broker, GENERATIONS) == []
    finally:
        broker.config_set("maxmemory", 0)
    assert each_takes_tasks(person.client.application, two_workers)
    assert [worker.lines("Traceback") for worker in two_workers] == tracebacks


@contextmanager
def taking_no_writes(broker: redis.Redis) -> Iterator[None]:
    """Make Redis answer with errors, as during a failover or with a full disk."""
    broker.config_set("min-replicas-to-write", 1)
    try:
        yield
    finally:
        broker.config_set("min-replicas-to-write", 0)


def test_a_worker_asks_a_redis_with_errors_once_a_second_and_recovers(start_worker, person, broker):
    with start_worker() as worker:
        assert each_takes_tasks(person.client.application, [worker])
        began = time.monotonic()
        with taking_no_writes(broker):  # the first two may follow each other at once
            assert wait_until(lambda: worker.lines("server:ResponseError") > 3, seconds=PATIENCE_SECONDS)
            assert time.monotonic() - began > 2
        assert each_takes_tasks(person.client.application, [worker])
        assert [worker.lines(noise) for noise in ("Traceback", "PendingDeprecationWarning")] == [0, 0]


def test_a_worker_tries_to_connect_each_second_and_logs_that_redis_is_away_once(start_worker, person, own_valkey):
    """Celery alone would pause for 2, 4, 6 … 30 seconds, and take no tasks until that is over."""
    with start_worker() as worker:
        assert each_takes_tasks(person.client.application, [worker])
        port = urlsplit(own_valkey.url).port
        own_valkey.kill()
        try:
            assert wait_until(lambda: worker.lines("Connection to broker lost") > 0, seconds=PATIENCE_SECONDS)
            with socket.create_server(("127.0.0.1", port)) as listener:
                listener.settimeout(10)
                tries, until = 0, time.monotonic() + 8
                while time.monotonic() < until:
                    listener.accept()[0].close()
                    tries += 1
                assert tries > 4
        finally:
            own_valkey.start()
        assert each_takes_tasks(person.client.application, [worker])
        assert 1 <= worker.lines("Redis is unavailable, so") <= 3  # refused, closed, reset
        assert worker.lines("Traceback") == 0


def test_a_worker_ends_when_told_to_while_redis_answers_with_errors(start_worker, person, broker):
    with start_worker() as worker:
        assert each_takes_tasks(person.client.application, [worker])
        with taking_no_writes(broker):
            assert wait_until(lambda: worker.lines("server:ResponseError") > 2, seconds=PATIENCE_SECONDS)
            worker.process.terminate()
            worker.process.wait(timeout=5)


def test_a_worker_that_starts_on_a_full_redis_takes_what_is_queued(start_worker, person, broker):
    queue_ticks(person.client.application, 3)
    broker.config_set("maxmemory", 1)
    try:
        with start_worker() as worker:
            assert wait_until(lambda: broker.llen(CHORES) == 0, seconds=PATIENCE_SECONDS), worker.log_file.read_text()
            assert worker.process.is_running()
    finally:
        broker.config_set("maxmemory", 0)


def test_beat_logs_one_line_when_a_full_redis_takes_no_task(environment, own_valkey, broker, tmp_path):
    log_file, often = tmp_path / "beat.log", {"REPLY_SWEEP_SECONDS": "0.5", "REDIS_URL": own_valkey.url}
    broker.config_set("maxmemory", 1)
    try:
        with celery_process("beat", environment | often, log_file):
            assert wait_until(lambda: log_file.read_text().count("Couldn't apply") > 3, seconds=PATIENCE_SECONDS)
    finally:
        broker.config_set("maxmemory", 0)
    errors = [line for line in log_file.read_text().splitlines() if not line.startswith("INFO")]
    assert [line for line in errors if "Couldn't apply scheduled task messages.sweep" not in line] == []
    assert all(line.startswith("ERROR") for line in errors)


def test_health_checks_each_worker_until_it_ends(start_worker, two_workers, person, broker):
    service = person.client.application
    broker.delete(WORKERS)  # those that other tests killed
    with service.app_context():
        rollup.tick(utc_now())

    def health(*words: str) -> tuple[int, dict[str, str]]:
        done = service.test_cli_runner().invoke(args=["health", "--json", *words])
        rows = map(json.loads, done.output.splitlines())
        return done.exit_code, {row["check"]: row["result"] for row in rows if row["check"].startswith("worker ")}

    with start_worker() as third:
        workers = [*two_workers, third]
        assert each_takes_tasks(service, workers)
        names = [f"worker {socket.gethostname()}:{worker.process.pid}" for worker in workers]
        assert health() == (0, dict.fromkeys(sorted(names), "passed"))
    assert health() == (0, dict.fromkeys(sorted(names[:2]), "passed"))

    silent = names[0].removeprefix("worker ")
    for minutes, code, result in ((9, 0, "passed"), (59, 4, "FAILED"), (11, 4, "FAILED")):
        broker.zadd(WORKERS, {silent: (utc_now() - timedelta(minutes=minutes)).timestamp()})
        assert health() == (code, {names[0]: result, names[1]: "passed"})
    assert health("--max-worker", "720")[0] == 0
    broker.zadd(WORKERS, {silent: (utc_now() - timedelta(minutes=61)).timestamp()})
    assert health() == (0, {names[1]: "passed"})
