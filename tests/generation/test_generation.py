"""One attempt at a reply: what Gemini's answers become, and who may write them."""

import threading
from datetime import timedelta

import psycopg2
import pytest
from uuid_utils.compat import uuid7

from app.core.broker import GENERATIONS
from app.core.clock import utc_now
from app.core.db import DatabaseUnavailable
from app.core.transactions import Transaction, transaction
from app.generation import state
from app.generation.queueing import GENERATE_REPLY
from sandbox.stack.processes import wait_until
from tests.queues import waiting_tasks
from tests.rooms import nearly_open_breaker

LEASE = timedelta(seconds=5)


def test_a_reply_is_stored_with_its_model_and_tokens(room, runner):
    reply = room.answer(runner, '[[sandbox: say="Hello, you."]]')
    assert (reply.status, reply.text, reply.error) == ("completed", "Hello, you.", None)
    assert reply.model == "gemini-3.5-flash"
    assert reply.usage["prompt_tokens"] > 0
    assert reply.usage["output_tokens"] > 0
    assert reply.completed_at > reply.created_at


@pytest.mark.parametrize(
    ("directive", "code"),
    [
        ("block", "blocked_by_safety"),
        ("finish=SAFETY", "blocked_by_safety"),
        ("finish=RECITATION", "blocked_by_safety"),
        ("finish=MAX_TOKENS", "output_limit"),
        ("status=400", "model_rejected"),
        ("status=403", "model_rejected"),
        ("status=404", "model_rejected"),
    ],
)
def test_a_reply_that_gemini_will_not_give_fails_at_once_with_its_code(room, runner, gemini, directive, code):
    reply = room.answer(runner, f"[[sandbox: {directive}]]")
    assert (reply.status, reply.text, reply.error["code"]) == ("failed", None, code)
    assert gemini.stats()["calls"] >= 1
    assert room.row(reply.id).failures == 0


@pytest.mark.parametrize(
    ("directive", "spent"),
    [("block", 1), ("finish=MAX_TOKENS", 0), ("status=403", 0), ("status=404", 0), ("status=400", 0)],
)
def test_a_prompt_is_refunded_unless_it_caused_the_failure(room, runner, directive, spent):
    room.answer(runner, f"[[sandbox: {directive}]]")
    assert room.used() == spent


@pytest.mark.parametrize(
    "directive", ["status=429", "status=500", "status=502", "status=503", "status=504", "drop", "garbage", "empty"]
)
def test_a_transient_failure_is_requeued(room, runner, directive):
    reply_id = room.send(f"[[sandbox: {directive}]]")
    room.generate(runner, reply_id)
    row = room.row(reply_id)
    assert (row.status, row.failures, row.attempt) == ("queued", 1, 1)
    assert row.not_before > utc_now() - timedelta(seconds=1)
    assert room.used() == 1


def test_a_reply_fails_when_its_attempts_are_used_up_and_is_refunded_once(room, runner):
    reply_id = room.send("[[sandbox: status=503]]")
    for _ in range(3):
        room.sql("UPDATE messages SET not_before = NULL WHERE role = 'model'")
        room.generate(runner, reply_id)
    assert room.read(reply_id).error["code"] == "model_unavailable"
    assert room.used() == 0
    room.generate(runner, reply_id)
    assert room.used() == 0
    assert [charge.refunded_at is not None for charge in room.charges()] == [True]


def test_a_reply_that_stays_empty_fails_after_fewer_attempts_and_its_prompt_stays_spent(room, runner, monkeypatch):
    monkeypatch.setattr("app.generation.runner.EMPTY_ATTEMPTS", 2)
    reply_id = room.send("[[sandbox: empty]]")
    for _ in range(3):
        room.sql("UPDATE messages SET not_before = NULL WHERE role = 'model'")
        room.generate(runner, reply_id)
    assert room.read(reply_id).error["code"] == "empty_reply"
    assert (room.row(reply_id).attempt, room.used()) == (2, 1)


def test_a_reply_waits_as_long_as_google_asks(room, runner):
    reply_id = room.send("[[sandbox: status=429 retry_after=40]]")
    before = utc_now()
    room.generate(runner, reply_id)
    assert timedelta(seconds=40) <= room.row(reply_id).not_before - before < timedelta(seconds=60)


def test_a_reply_fails_rather_than_wait_past_its_time_and_the_log_says_why(room, runner, caplog):
    reply_id = room.send("[[sandbox: status=503 retry_after=3600]]")
    room.generate(runner, reply_id)
    assert room.read(reply_id).error["code"] == "model_unavailable"
    assert f"Gave up on reply {reply_id}: HTTP 503" in caplog.text


@pytest.mark.parametrize("gemini_timeout", [1])
@pytest.mark.parametrize("directive", ["hang", "trickle=0.05"])
def test_an_attempt_is_bounded_as_a_whole(room, runner, directive):
    begun = utc_now()
    reply_id = room.send(f"[[sandbox: {directive}]]")
    room.generate(runner, reply_id)
    assert utc_now() - begun < timedelta(seconds=5)
    assert room.row(reply_id).status == "queued"
    room.sql("UPDATE messages SET failures = 2, not_before = NULL WHERE role = 'model'")
    room.generate(runner, reply_id)
    assert room.read(reply_id).error["code"] == "model_timeout"


class Defective:
    """A model client with a defect of ours."""

    def generate(self, *_, **__):
        raise TypeError("generate() got an unexpected keyword argument")


def test_a_defect_of_ours_fails_the_reply_at_once_and_does_not_open_the_breaker(room, make_runner, caplog):
    breaker = nearly_open_breaker()
    runner = make_runner(breaker=breaker)
    runner.model = Defective()
    reply = room.answer(runner, "Hello")
    assert (reply.status, reply.error["code"]) == ("failed", "model_unavailable")
    assert (room.row(reply.id).attempt, room.row(reply.id).failures) == (1, 0)
    assert room.used() == 0
    assert breaker.wait_seconds(uuid7()) == 0
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info[0] is TypeError
    assert record.getMessage() == f"A defect ended the attempt at reply {reply.id}"


def test_a_task_that_comes_twice_asks_gemini_once(room, runner, gemini):
    gemini.clear_requests()
    reply_id = room.send("Once")
    room.generate(runner, reply_id)
    room.generate(runner, reply_id)
    assert gemini.stats()["calls"] == 1


def test_twenty_tasks_at_once_ask_gemini_once(room, runner, gemini):
    gemini.clear_requests()
    reply_id = room.send("[[sandbox: delay=0.3]] Once")
    threads = [threading.Thread(target=room.generate, args=(runner, reply_id)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gemini.stats()["calls"] == 1
    assert room.read(reply_id).status == "completed"


def test_a_reply_whose_commit_was_not_acknowledged_lets_the_next_one_begin(room, runner, monkeypatch):
    """The reply is stored. The worker tries again, and finds that the reply is no longer its own."""
    first, second = room.send("First"), room.send("Second")
    client, run_actions = room.app.extensions["redis"], Transaction.run_actions

    def lose_the_acknowledgement(tx):
        if tx._after_commit:  # the reply's end
            monkeypatch.undo()
            client.flushdb()
            raise DatabaseUnavailable("COMMIT", {}, Exception("server closed the connection unexpectedly"))
        run_actions(tx)

    monkeypatch.setattr(Transaction, "run_actions", lose_the_acknowledgement)
    room.generate(runner, first)
    assert room.read(first).status == "completed"
    assert waiting_tasks(client, GENERATIONS) == [(GENERATE_REPLY, (str(second),))]


def test_only_the_current_attempt_may_write(room, make_runner, gemini):
    """A worker that was taken for dead comes back after another one has taken over its reply."""
    slow, quick = make_runner(lease_seconds=300), make_runner()
    reply_id = room.send('[[sandbox: say="Done."]]')
    gemini.behave(hang=True, times=1)
    thread = threading.Thread(target=room.generate, args=(slow, reply_id))
    thread.start()
    gemini.wait_for(in_flight_at_least=1)
    room.let_leases_run_out()
    room.generate(quick, reply_id)
    first = room.read(reply_id)
    gemini.reset()
    thread.join()
    assert room.row(reply_id).attempt == 2
    assert room.read(reply_id) == first


def test_the_end_of_a_reply_is_stored_even_when_its_user_is_locked_at_first(room, runner, postgres, caplog):
    reply_id = room.send("[[sandbox: status=403]]")
    with psycopg2.connect(postgres.url) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT FROM users FOR UPDATE")
        thread = room.generate_meanwhile(runner, reply_id)
        assert wait_until(lambda: "PostgreSQL aborted a statement" in caplog.text, seconds=10)
    holder.close()
    thread.join()
    assert room.read(reply_id).status == "failed"
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.levelname == "ERROR"
    assert f"reply {reply_id} is not stored yet" in record.getMessage()


def test_a_reply_whose_workers_die_again_and_again_fails_in_the_end(room, runner, gemini):
    reply_id = room.send("Poison")
    with room.app.app_context():
        for _crash in range(3):
            with transaction():
                assert state.claim(reply_id, lease=LEASE)
            room.let_leases_run_out()
    gemini.clear_requests()
    room.generate(runner, reply_id)
    assert room.read(reply_id).error["code"] == "model_unavailable"
    assert gemini.stats()["calls"] == 0
    assert room.used() == 0


def test_a_held_lease_is_renewed(room, make_runner, gemini):
    lease = timedelta(seconds=0.6)
    reply_id = room.send("[[sandbox: hang]] Long")
    thread = room.generate_meanwhile(make_runner(lease_seconds=lease.total_seconds()), reply_id)
    gemini.wait_for(in_flight_at_least=1)
    claimed_until = room.row(reply_id).lease_expires_at
    assert wait_until(lambda: room.row(reply_id).lease_expires_at > claimed_until + lease, seconds=10)
    gemini.reset()
    thread.join()
    row = room.row(reply_id)
    assert (row.status, row.attempt, row.lease_expires_at) == ("completed", 1, None)


def test_a_lost_lease_ends_the_call(room, make_runner, gemini):
    reply_id = room.send("[[sandbox: hang]] Lost")
    thread = room.generate_meanwhile(make_runner(lease_seconds=0.3), reply_id)
    gemini.wait_for(in_flight_at_least=1)
    room.sql("UPDATE messages SET attempt = attempt + 1 WHERE status = 'generating'")
    thread.join(20)
    assert not thread.is_alive()


def test_a_reply_cannot_be_claimed_while_another_worker_holds_its_lease(room):
    reply_id = room.send("Mine")
    with room.app.app_context():
        with transaction():
            assert state.claim(reply_id, lease=LEASE).attempt == 1
        with transaction():
            assert state.claim(reply_id, lease=LEASE) is None
        room.let_leases_run_out()
        with transaction():
            assert state.claim(reply_id, lease=LEASE).attempt == 2


def test_replies_of_a_room_are_generated_in_order(room, runner):
    first, second = room.send("One"), room.send("Two")
    room.generate(runner, second)
    assert room.read(second).status == "queued"
    room.generate(runner, first)
    room.generate(runner, second)
    assert "“One”" in room.read(second).text


def test_a_failed_reply_does_not_block_the_next(room, runner):
    first, second = room.send("[[sandbox: block]]"), room.send("Two")
    room.generate(runner, first)
    room.generate(runner, second)
    assert (room.read(first).status, room.read(second).status) == ("failed", "completed")


def test_a_room_deleted_during_a_generation_causes_no_error(room, runner, gemini, caplog):
    reply_id = room.send("[[sandbox: delay=0.5]] Gone")
    thread = threading.Thread(target=room.generate, args=(runner, reply_id))
    thread.start()
    gemini.wait_for(in_flight_at_least=1)
    assert room.person.delete(room.path).status_code == 204
    thread.join()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_shutdown_releases_replies(room, runner, gemini):
    reply_id = room.send("[[sandbox: hang]]")
    thread = threading.Thread(target=room.generate, args=(runner, reply_id))
    thread.start()
    gemini.wait_for(in_flight_at_least=1)
    runner.keeper.abort_calls_after(0)
    thread.join(20)
    row = room.row(reply_id)
    assert (row.status, row.failures) == ("queued", 0)


def test_the_log_reports_a_refused_key_and_shows_no_conversation(room, make_runner, caplog):
    caplog.set_level("INFO")
    room.answer(make_runner(api_key="invalid-key"), "My secret plan")
    assert "set a valid key" in caplog.text
    assert "My secret plan" not in caplog.text
    assert "outcome=model_rejected" in caplog.text


def test_the_log_shows_what_a_reply_cost(room, runner, caplog):
    caplog.set_level("INFO")
    usage = room.answer(runner, "Hello").usage
    [line] = [record for record in caplog.records if getattr(record, "event", None) == "generation"]
    assert (line.outcome, line.attempt) == ("completed", 1)
    assert {name: getattr(line, name) for name in usage} == usage
    assert line.seconds >= 0
