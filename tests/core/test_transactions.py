"""Reads are statements of their own; a use case that writes is one transaction, also behind a read."""

import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS
from sqlalchemy import func, select

from app.core.clock import utc_now
from app.core.db import db
from app.core.transactions import transaction
from app.ops.models import Heartbeat


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


def test_a_use_case_is_one_transaction_although_something_was_read_before(context):
    heartbeats()
    with transaction():
        heartbeats()
        assert status() == TRANSACTION_STATUS_INTRANS


def test_what_fails_is_undone_as_a_whole(context):
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


def test_what_is_read_after_a_transaction_opens_none(context):
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


def test_transactions_do_not_nest(context):
    with transaction(), pytest.raises(RuntimeError), transaction():
        pass
