"""Reads are statements of their own; a use case that writes is one transaction, even after a read."""

from contextlib import suppress

import pytest
from kombu.exceptions import OperationalError as BrokerError
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS
from redis.exceptions import ResponseError
from sqlalchemy import func, select, update

from app.core import http
from app.core.broker import GENERATIONS
from app.core.clock import utc_now
from app.core.db import db
from app.core.redis import redis_client
from app.core.transactions import transaction
from app.ops.totals import Heartbeat
from tests.transactions import APP


def heartbeats() -> int:
    return db.session.scalar(select(func.count()).select_from(Heartbeat)) or 0


def status() -> int:
    """Whether PostgreSQL has a transaction open on this thread's connection."""
    return db.session.connection().connection.driver_connection.info.transaction_status


@pytest.fixture
def context(app):
    with app.app_context():
        yield


def test_a_read_opens_no_transaction(context):
    heartbeats()
    assert status() == TRANSACTION_STATUS_IDLE


def test_a_use_case_is_one_transaction_even_after_a_read(context):
    heartbeats()
    with transaction():
        heartbeats()
        assert status() == TRANSACTION_STATUS_INTRANS


def test_a_failed_transaction_is_undone_as_a_whole(context):
    def write_and_fail() -> None:
        with transaction():
            for name in ("one", "another"):
                db.session.add(Heartbeat(name=name, at=utc_now()))
                db.session.flush()
            raise ZeroDivisionError

    heartbeats()
    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert heartbeats() == 0


def test_a_read_after_a_transaction_opens_none(context):
    with transaction():
        db.session.add(Heartbeat(name="one", at=utc_now()))
    assert (heartbeats(), status()) == (1, TRANSACTION_STATUS_IDLE)


def test_a_row_that_was_read_before_can_be_changed(context):
    with transaction():
        db.session.add(Heartbeat(name="one", at=utc_now()))
    row, later = db.session.get_one(Heartbeat, "one"), utc_now()
    with transaction():
        row.at = later
    db.session.expire_all()
    assert db.session.get_one(Heartbeat, "one").at == later


def test_a_change_that_was_made_before_belongs_to_the_transaction(context):
    def add_and_fail() -> None:
        db.session.add(Heartbeat(name="one", at=utc_now()))
        with transaction():
            db.session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        add_and_fail()
    assert heartbeats() == 0


def test_a_transaction_uses_the_connection_of_the_read_before_it(context):
    heartbeats()
    before = db.session.connection()
    with transaction():
        assert db.session.connection() is before


def test_a_connection_returns_to_the_pool_as_it_came(context):
    for _ in range(3):
        with transaction():
            heartbeats()
        heartbeats()
        assert status() == TRANSACTION_STATUS_IDLE
        db.session.remove()


@pytest.mark.parametrize(
    "statement", [update(Heartbeat).values(at=utc_now()), select(Heartbeat).with_for_update()], ids=["write", "lock"]
)
def test_a_view_that_writes_outside_of_a_transaction_fails_the_tests(context, statement):
    view = compile("db.session.execute(statement)", f"{APP}/auth/views.py", "exec")
    with transaction():
        exec(view)
    with pytest.raises(AssertionError, match="outside of transaction"):
        exec(view)


@pytest.mark.parametrize(
    ("error", "level", "told"),
    [
        (
            ResponseError("full"),
            "WARNING",
            "An action after a commit failed because Redis is unavailable: ResponseError: full",
        ),
        (
            BrokerError("gone"),
            "WARNING",
            "An action after a commit failed because Redis is unavailable: OperationalError: gone",
        ),
        (TypeError("a defect"), "ERROR", "An action after a commit failed"),
    ],
)
def test_an_action_that_fails_after_the_commit_is_logged_and_undoes_nothing(context, caplog, error, level, told):
    ran = []

    def fail() -> None:
        raise error

    with transaction() as tx:
        tx.after_commit(fail)
        tx.after_commit(lambda: ran.append(heartbeats()))
        db.session.add(Heartbeat(name="one", at=utc_now()))
    assert ran == [1]
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == (level, told)
    assert bool(record.exc_info) == (level == "ERROR")


def test_a_task_that_cannot_be_queued_is_logged_and_holds_up_no_other(context, caplog):
    waiting = redis_client().llen(GENERATIONS)
    with transaction() as tx:
        for argument in (object(), "of a reply"):
            tx.enqueue_after_commit("messages.generate_reply", argument)
        db.session.add(Heartbeat(name="one", at=utc_now()))
    assert (heartbeats(), redis_client().llen(GENERATIONS)) == (1, waiting + 1)
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "A task was not queued")
    assert record.exc_info


def test_transactions_do_not_nest(context):
    with transaction(), pytest.raises(RuntimeError), transaction():
        pass


def test_a_request_that_cannot_be_counted_queues_its_task_all_the_same(app, user, monkeypatch):
    """For example, the files of the metrics cannot be written."""
    room = user.make_chatroom()
    with app.app_context():
        waiting = redis_client().llen(GENERATIONS)
        monkeypatch.setattr(http.REQUEST_COUNT, "labels", lambda *_: {}["no such file"])
        with suppress(KeyError):
            user.post(f"{room}/message", json={"text": "Hello"})
        assert redis_client().llen(GENERATIONS) == waiting + 1
