"""Which reply of a room is generated next."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from sqlalchemy import text

from app.core.broker import GENERATIONS
from app.core.db import db
from app.core.transactions import transaction
from app.generation import state
from app.generation.queueing import GENERATE_REPLY
from app.integrations.gemini.client import Answer, FinishReason, TokenUsage
from sandbox.stack.processes import wait_until
from tests.queues import waiting_tasks
from tests.rooms import retry, somebody_waits_for_a_lock


def test_a_retried_reply_waits_for_the_one_that_is_generated(room, runner, gemini):
    first = room.answer(runner, "[[sandbox: block]]")
    second = room.send("[[sandbox: hang]] Second")
    thread = room.generate_meanwhile(runner, second)
    gemini.wait_for(in_flight_at_least=1)
    retry(room, first.id)
    room.generate(runner, UUID(first.id))
    assert (room.read(first.id).status, room.read(second).status) == ("queued", "generating")
    gemini.reset()
    thread.join()
    assert waiting_tasks(room.app.extensions["redis"], GENERATIONS)[-1] == ("messages.generate_reply", (first.id,))
    room.generate(runner, UUID(first.id))
    assert room.read(first.id).status == "failed"


def test_a_retried_reply_and_one_whose_worker_died_do_not_wait_for_each_other(room, runner):
    first = UUID(room.answer(runner, "[[sandbox: block]]").id)
    second = room.send("Second")
    room.sql("UPDATE messages SET status = 'generating', lease_expires_at = now() WHERE id = :id", id=second)
    retry(room, first)
    room.generate(runner, first)
    room.generate(runner, second)
    assert room.read(second).status == "completed"
    assert waiting_tasks(room.app.extensions["redis"], GENERATIONS)[-1] == ("messages.generate_reply", (str(first),))
    room.generate(runner, first)
    assert room.read(first).error["code"] == "blocked_by_safety"


def test_a_retried_reply_goes_on_when_the_later_one_is_requeued(room, runner, gemini):
    first = UUID(room.answer(runner, "[[sandbox: block]]").id)
    second = room.send("[[sandbox: delay=4 status=503 retry_after=30]]")
    thread = room.generate_meanwhile(runner, second)
    gemini.wait_for(in_flight_at_least=1)
    retry(room, first)
    room.generate(runner, first)
    assert room.read(first).status == "queued"
    thread.join()
    queued_then = waiting_tasks(room.app.extensions["redis"], GENERATIONS)[-2:]  # it, and the one that was put back
    assert ("messages.generate_reply", (str(first),)) in queued_then


def test_only_one_of_two_replies_claimed_at_the_same_time_is_generated(room, runner, gemini):
    first = UUID(room.answer(runner, "[[sandbox: block]]").id)
    second = room.send("Second")
    retry(room, first)
    calls = gemini.stats()["calls"]
    with room.app.app_context(), transaction():
        db.session.execute(
            text("UPDATE messages SET status = 'generating', lease_expires_at = now() WHERE id = :id"), {"id": second}
        )
        thread = room.generate_meanwhile(runner, first)
        assert wait_until(somebody_waits_for_a_lock, seconds=10)
    thread.join()
    assert room.read(first).status == "queued"
    assert gemini.stats()["calls"] == calls


def test_a_prompt_that_is_sent_while_the_reply_before_it_ends_is_answered_next(room, runner):
    """A worker takes its task when the end is written and not yet committed, and finds the room busy."""
    first = room.send("First")
    with room.app.app_context():
        held = runner.claim(first)
    client = room.app.extensions["redis"]
    answer = Answer("Done.", "gemini-3.5-flash", FinishReason.STOP, TokenUsage())

    def send_and_generate():
        second = room.send("Second")
        client.flushdb()
        room.generate(runner, second)
        return second

    with ThreadPoolExecutor(1) as other, room.app.app_context(), transaction() as tx:
        assert state.complete(tx, held, answer)
        second = other.submit(send_and_generate).result()
    assert room.read(second).status == "queued"
    assert (GENERATE_REPLY, (str(second),)) in waiting_tasks(client, GENERATIONS)
