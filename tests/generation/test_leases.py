"""Leases: whose clock counts, and what a locked row costs."""

import threading
from contextlib import contextmanager
from datetime import datetime, timedelta

import psycopg2
import pytest
from sqlalchemy import event, text

from app.chatrooms.models import Status
from app.core.db import db
from app.core.transactions import transaction
from app.generation import state
from app.generation.tasks import sweep
from app.generation.worker import CHECK_EVERY_SECONDS
from sandbox.stack.processes import wait_until
from tests.rooms import Room, cancel, retry

LEASE = timedelta(seconds=5)


def claim(room, prompt="Hello"):
    reply_id = room.send(prompt)
    with room.app.app_context(), transaction():
        return state.claim(reply_id, lease=LEASE)


def another_room(room):
    return Room(room.app, room.person, room.person.make_chatroom())


def database_time(room):
    with room.app.app_context():
        return db.session.scalar(text("SELECT now()"))


# Renewing


def test_a_locked_row_does_not_cost_the_others_their_leases(room, postgres):
    locked, free = claim(room), claim(another_room(room))
    room.sql("UPDATE messages SET lease_expires_at = now() + interval '1 second' WHERE status = 'generating'")
    with psycopg2.connect(postgres.url) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT FROM messages WHERE id = %s FOR UPDATE", (str(locked.reply_id),))
        with room.app.app_context(), transaction():
            assert state.renew([locked, free], lease=LEASE) == {locked, free}
    holder.close()
    assert room.row(free.reply_id).lease_expires_at > database_time(room) + LEASE / 2
    assert room.row(locked.reply_id).lease_expires_at < database_time(room) + LEASE / 2


def test_a_lease_is_renewed_while_a_foreign_key_locks_its_row(room, postgres):
    held = claim(room)
    room.sql("UPDATE messages SET lease_expires_at = now() + interval '1 second' WHERE status = 'generating'")
    with psycopg2.connect(postgres.url) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT FROM messages WHERE id = %s FOR KEY SHARE", (str(held.reply_id),))
        with room.app.app_context(), transaction():
            state.renew([held], lease=LEASE)
    holder.close()
    assert room.row(held.reply_id).lease_expires_at > database_time(room) + LEASE / 2


@pytest.mark.parametrize("loss", ["attempt = attempt + 1", "status = 'queued', lease_expires_at = NULL"])
def test_a_lost_lease_is_told_apart_from_a_locked_one(room, loss):
    lost, held = claim(room), claim(another_room(room))
    room.sql(f"UPDATE messages SET {loss} WHERE id = :id", id=lost.reply_id)
    with room.app.app_context(), transaction():
        assert state.renew([lost, held], lease=LEASE) == {held}


def test_an_outage_is_logged_once_and_so_is_its_end(room, make_runner, caplog):
    lost = threading.Event()
    attempts = 0

    def lose(connection, *_):
        nonlocal attempts
        if lost.is_set() and threading.current_thread().name == "lease-keeper":
            attempts += 1
            connection.connection.driver_connection.close()

    with room.app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", lose)
    try:
        with make_runner(lease_seconds=0.3).keeper.hold(claim(room), seconds=10):
            lost.set()
            assert wait_until(lambda: attempts > 2, seconds=10)
            lost.clear()
            assert wait_until(lambda: "Leases are renewed again" in caplog.text, seconds=10)
    finally:
        event.remove(engine, "before_cursor_execute", lose)
    told = [(record.levelname, bool(record.exc_info)) for record in caplog.records if "lease" in record.msg.lower()]
    assert told == [("WARNING", False)], caplog.text
    assert caplog.text.count("leases are not renewed; trying again each second") == 1


# The clock


class AnHourAhead(datetime):
    """A machine whose clock is wrong."""

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(hours=1)


def test_a_worker_with_a_wrong_clock_takes_no_reply_from_another_one(room, runner, gemini, monkeypatch):
    held = claim(room)
    gemini.clear_requests()
    monkeypatch.setattr("app.core.clock.datetime", AnHourAhead)
    room.generate(runner, held.reply_id)
    assert gemini.stats()["calls"] == 0
    assert room.row(held.reply_id).attempt == 1


def test_a_worker_with_a_wrong_clock_does_not_make_a_reply_wait_longer(room, runner, monkeypatch):
    reply_id = room.send("[[sandbox: status=503]]")
    with monkeypatch.context() as wrong:
        wrong.setattr("app.core.clock.datetime", AnHourAhead)
        room.generate(runner, reply_id)
    row = room.row(reply_id)
    assert row.status is Status.QUEUED
    assert abs(row.not_before - database_time(room)) < timedelta(minutes=1)
    assert abs(row.started_at - database_time(room)) < timedelta(minutes=1)


def test_a_retry_by_a_machine_with_a_wrong_clock_is_claimed_by_its_task(room, runner, monkeypatch):
    reply_id = room.send("Hello")
    assert cancel(room, reply_id).status_code == 200
    with monkeypatch.context() as wrong:
        wrong.setattr("app.core.clock.datetime", AnHourAhead)
        assert retry(room, reply_id).status_code == 202
    room.generate(runner, reply_id)
    assert room.row(reply_id).status is Status.COMPLETED


def send(room):
    return room.send("Hello")


def send_and_retry(room):
    reply_id = room.send("Hello")
    cancel(room, reply_id)
    retry(room, reply_id)
    return reply_id


def send_two_and_cancel_the_first(room):
    held, waiting = claim(room), room.send("And I wait")
    cancel(room, held.reply_id)
    return waiting


@pytest.mark.parametrize("ask", [send, send_and_retry, send_two_and_cancel_the_first])
def test_a_reply_queued_under_a_wrong_clock_is_found_when_its_task_is_lost(room, monkeypatch, ask):
    with monkeypatch.context() as wrong:
        wrong.setattr("app.core.clock.datetime", AnHourAhead)
        reply_id = ask(room)
    assert room.row(reply_id).enqueued_at <= database_time(room)


def test_a_new_reply_from_a_retry_under_a_wrong_clock_is_found_when_its_task_is_lost(room, runner, monkeypatch):
    first = room.send("Hello")
    room.generate(runner, first)
    with monkeypatch.context() as wrong:
        wrong.setattr("app.core.clock.datetime", AnHourAhead)
        again = retry(room, first).json["id"]
    assert room.row(again).enqueued_at <= database_time(room)


def test_a_task_that_a_worker_takes_a_moment_early_is_not_lost(room, runner):
    reply_id = room.send("[[sandbox: status=503 times=1]]")
    room.generate(runner, reply_id)
    room.sql("UPDATE messages SET not_before = now() + interval '0.9 seconds' WHERE id = :id", id=reply_id)
    room.generate(runner, reply_id)
    assert room.row(reply_id).status is Status.COMPLETED


def test_a_sweep_with_a_wrong_clock_queues_nothing_too_early(room, monkeypatch):
    queued, held = room.send("Hello"), claim(another_room(room))
    room.app.extensions["redis"].flushdb()
    monkeypatch.setattr("app.core.clock.datetime", AnHourAhead)
    with room.app.app_context():
        sweep()
    for reply_id in (queued, held.reply_id):
        assert room.row(reply_id).enqueued_at < database_time(room)


# Cancellations


def test_an_attempt_ends_when_its_own_process_has_claimed_the_reply_again(room, make_runner, gemini):
    """This happens when PostgreSQL was away for longer than a lease. Nobody needs the first answer any more."""
    runner = make_runner(lease_seconds=1.5)
    reply_id = room.send("[[sandbox: hang]]")
    first = room.generate_meanwhile(runner, reply_id)
    gemini.wait_for(in_flight_at_least=1)
    room.let_leases_run_out()
    second = room.generate_meanwhile(runner, reply_id)
    first.join(20)
    assert not first.is_alive()
    assert room.row(reply_id).attempt == 2
    assert cancel(room, reply_id).status_code == 200
    second.join(20)
    assert not second.is_alive()


def test_a_cancellation_does_not_end_the_attempt_of_a_retry(room, make_runner, gemini):
    runner = make_runner(lease_seconds=300)
    reply_id = room.send("[[sandbox: hang]]")
    first = room.generate_meanwhile(runner, reply_id)
    gemini.wait_for(in_flight_at_least=1)
    assert cancel(room, reply_id).status_code == 200
    first.join(20)
    assert retry(room, reply_id).status_code == 202
    second = room.generate_meanwhile(runner, reply_id)
    gemini.wait_for(in_flight_at_least=1)
    second.join(2 * CHECK_EVERY_SECONDS)
    assert second.is_alive()
    assert cancel(room, reply_id).status_code == 200
    second.join(20)
    assert not second.is_alive()


# A claim that cannot go on


TOO_LONG = "SET LOCAL statement_timeout = 20; SELECT pg_sleep(10)"
CUT_OFF = "SELECT pg_terminate_backend(pg_backend_pid())"


@contextmanager
def reading_history(app, as_if):
    """Run another statement in place of the one that reads what was said before."""

    def replace(_connection, _cursor, statement, parameters, *_):
        return (as_if, {}) if "length_so_far" in statement else (statement, parameters)

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", replace, retval=True)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", replace)


@pytest.fixture
def endless_history(quiet_app):
    """Make reading what was said before take longer than a statement may."""
    with reading_history(quiet_app, TOO_LONG):
        yield


def test_a_reply_that_loses_postgresql_after_its_claim_is_requeued_within_seconds(room, runner, gemini, caplog):
    room.generate(runner, room.send("Before"))
    gemini.clear_requests()
    reply_id = room.send("Hello")
    with reading_history(room.app, CUT_OFF):
        room.generate(runner, reply_id)
    row = room.row(reply_id)
    assert (row.status, row.attempt, row.failures, gemini.stats()["calls"]) == (Status.QUEUED, 1, 0, 0)
    assert 0 < (row.not_before - row.started_at).total_seconds() < 5
    [told] = [record for record in caplog.records if "was not read" in record.getMessage()]
    assert (told.levelname, told.exc_info) == ("WARNING", None)
    room.sql("UPDATE messages SET not_before = NULL")
    room.generate(runner, reply_id)
    assert room.read(reply_id).status == "completed"
    late = room.send("Once more")
    room.sql("UPDATE messages SET started_at = now() - interval '2 minutes' WHERE id = :id", id=late)
    with reading_history(room.app, CUT_OFF):
        room.generate(runner, late)
    assert room.read(late).error["code"] == "model_unavailable"


def test_a_reply_whose_history_cannot_be_read_fails_after_its_attempts(room, runner, gemini, endless_history, caplog):
    room.generate(runner, room.send("Before"))
    gemini.clear_requests()
    reply_id = room.send("Hello")
    for failures in (1, 2):
        room.generate(runner, reply_id)
        row = room.row(reply_id)
        assert (row.status, row.failures) == (Status.QUEUED, failures)
        room.sql("UPDATE messages SET not_before = NULL WHERE role = 'model'")
    room.generate(runner, reply_id)
    reply = room.read(reply_id)
    assert (reply.error["code"], reply.context) == ("model_unavailable", None)
    assert room.used() == 1
    assert gemini.stats()["calls"] == 0
    told = [(record.levelname, record.getMessage()) for record in caplog.records if record.exc_info]
    assert told == [("ERROR", f"The conversation before reply {reply_id} could not be read")] * 3
