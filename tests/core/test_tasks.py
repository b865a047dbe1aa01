"""What a worker takes first, and what beat asks it for."""

import inspect
import re
import signal
from datetime import timedelta
from importlib import import_module

import redis
from celery import Celery
from uuid_utils.compat import uuid7

from app.core.broker import CHORES, GENERATIONS
from app.core.clock import utc_now
from app.schedule import beat_schedule
from celery_beat import SteadyScheduler
from sandbox.stack.processes import wait_until
from tests.celery_process import celery_process
from tests.queues import waiting_tasks
from tests.web_process import ROOT

REPLIES_AHEAD = 200


def test_a_chore_does_not_wait_behind_all_replies(migrated_app, own_environment, tmp_path):
    log_file = tmp_path / "worker.log"
    with Celery(broker=own_environment["REDIS_URL"]) as celery:
        for _ in range(REPLIES_AHEAD):
            celery.send_task("messages.generate_reply", args=[str(uuid7())], queue=GENERATIONS)
        celery.send_task("ops.tick", queue=CHORES)
    with celery_process("worker", own_environment | {"WORKER_CONCURRENCY": "1"}, log_file):

        def tasks() -> list[str]:
            return re.findall(r"(messages\.generate_reply|ops\.tick)\(", log_file.read_text())

        assert wait_until(lambda: len(tasks()) == REPLIES_AHEAD + 1, seconds=30), log_file.read_text()
        assert tasks().index("ops.tick") < REPLIES_AHEAD / 10


def test_a_worker_for_chores_alone_leaves_replies_alone(migrated_app, own_environment, tmp_path):
    log_file = tmp_path / "worker.log"
    with celery_process("worker", own_environment, log_file, "-Q", CHORES):
        with Celery(broker=own_environment["REDIS_URL"]) as celery:
            celery.send_task("messages.generate_reply", args=[str(uuid7())], queue=GENERATIONS)
            for _ in range(3):
                celery.send_task("ops.tick", queue=CHORES)
        assert wait_until(lambda: log_file.read_text().count("ops.tick(") == 3, seconds=30), log_file.read_text()
    with redis.Redis.from_url(own_environment["REDIS_URL"]) as client:
        assert [name for name, _ in waiting_tasks(client, GENERATIONS)] == ["messages.generate_reply"]


def test_a_worker_that_shuts_down_runs_each_task_or_leaves_it_in_the_queue(migrated_app, own_environment, tmp_path):
    log_file, ids = tmp_path / "worker.log", [str(uuid7()) for _ in range(400)]
    with (
        Celery(broker=own_environment["REDIS_URL"]) as celery,
        celery_process("worker", own_environment, log_file) as worker,
        redis.Redis.from_url(own_environment["REDIS_URL"]) as client,
    ):
        assert wait_until(lambda: " ready." in log_file.read_text(), seconds=30), log_file.read_text()
        for number, reply_id in enumerate(ids):
            celery.send_task("messages.generate_reply", args=[reply_id], queue=GENERATIONS)
            if number == len(ids) // 2:
                worker.send_signal(signal.SIGTERM)
        worker.wait(40)
        left = {str(arguments[0]) for _, arguments in waiting_tasks(client, GENERATIONS)}
        done = set(re.findall(r"messages\.generate_reply\(([-0-9a-f]+)\)", log_file.read_text()))
    assert left, "it ended before all were queued"
    assert set(ids) - left - done == set()


def test_the_queues_have_the_documented_names():
    page = (ROOT / "docs/operations.md").read_text()
    assert f'`redis-cli -u "$REDIS_URL" LLEN {GENERATIONS}`' in page
    assert f"`-Q {CHORES}`" in page


def test_tasks_of_an_application_go_to_the_queues_of_the_workers(migrated_app):
    router = migrated_app.extensions["celery"].amqp.router
    assert router.route({}, "messages.generate_reply")["queue"].name == GENERATIONS
    assert router.route({}, "auth.send_code")["queue"].name == CHORES


def test_beat_schedules_every_task_without_arguments(migrated_app):
    """Sweeps, ticks and comparisons: whoever adds one must not forget the schedule."""
    for path in (ROOT / "app").glob("*/tasks.py"):
        import_module(f"app.{path.parent.name}.tasks")
    tasks = [task for task in migrated_app.extensions["celery"].tasks.values() if task.__module__.startswith("app.")]
    without_arguments = {task.name for task in tasks if not inspect.signature(task.run).parameters}
    scheduled = set(beat_schedule(migrated_app.extensions["settings"]))
    assert scheduled == without_arguments, "a task without arguments is periodic: add it to app/schedule.py"


def test_a_worker_whose_clock_is_ahead_of_beats_drops_no_sweep(migrated_app):
    schedule = beat_schedule(migrated_app.extensions["settings"])
    assert [name for name, entry in schedule.items() if entry["options"]["expires"] < 60] == []


def test_beat_goes_on_when_its_clock_is_set_back(monkeypatch):
    celery, ahead, queued = Celery(broker="memory://", set_as_current=False), timedelta(hours=1), []
    monkeypatch.setattr(celery, "now", lambda: utc_now() + ahead)
    celery.conf.beat_schedule = {name: {"task": name, "schedule": 10.0} for name in ("sweep", "tick")}
    scheduler = SteadyScheduler(celery)
    monkeypatch.setattr(scheduler, "apply_entry", lambda entry, **_: queued.append(entry.name))
    assert scheduler.tick() < 10
    ahead = timedelta(0)
    assert scheduler.tick() < 10
    assert queued == []
    ahead = timedelta(seconds=11)
    while scheduler.tick() == 0:
        pass
    assert sorted(queued) == ["sweep", "tick"]
