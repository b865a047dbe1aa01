"""What a worker takes first."""

import re

from celery import Celery

from app.core.celery import CHORES, GENERATIONS
from app.core.ids import new_id
from sandbox.stack.servers import wait_until
from tests.celery_process import celery_process

REPLIES_AHEAD = 200


def test_a_chore_does_not_wait_behind_all_replies(migrated_app, own_environment, tmp_path):
    log_file = tmp_path / "worker.log"
    with Celery(broker=own_environment["REDIS_URL"]) as celery:
        for _ in range(REPLIES_AHEAD):
            celery.send_task("messages.generate_reply", args=[str(new_id())], queue=GENERATIONS)
        celery.send_task("ops.tick", queue=CHORES)
    with celery_process("worker", own_environment | {"WORKER_CONCURRENCY": "1"}, log_file):

        def tasks() -> list[str]:
            return re.findall(r"(messages\.generate_reply|ops\.tick)\(", log_file.read_text())

        assert wait_until(lambda: len(tasks()) == REPLIES_AHEAD + 1, seconds=30), log_file.read_text()
        assert tasks().index("ops.tick") < REPLIES_AHEAD / 10


def test_what_an_application_queues_goes_where_workers_look(migrated_app):
    router = migrated_app.extensions["celery"].amqp.router
    assert router.route({}, "messages.generate_reply")["queue"].name == GENERATIONS
    assert router.route({}, "auth.send_code")["queue"].name == CHORES
