"""Canceling a reply at each stage: what stays of it, and what becomes of its prompt."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, text

from app.core.db import db
from app.core.transactions import transaction
from app.generation import queueing
from sandbox.stack.processes import wait_until
from tests.event_streams import events_of, follow, names, text_of
from tests.rooms import Room, cancel, retry, somebody_waits_for_a_lock

SAID = "One two three four five six."
PROMPT = f'[[sandbox: hang_after=3]] [[sandbox: say="{SAID}"]]'


def test_a_queued_reply_is_canceled_and_its_prompt_refunded(room, runner, gemini):
    gemini.clear_requests()
    reply_id = room.send("Hello")
    answer = cancel(room, reply_id)
    assert (answer.status_code, answer.json["status"], answer.json["text"]) == (200, "canceled", None)
    assert answer.json["completed_at"]
    assert room.used() == 0
    room.generate(runner, reply_id)
    assert gemini.stats()["calls"] == 0
    assert room.read(reply_id).status == "canceled"


def test_a_cancellation_waits_for_other_requests_of_its_user(room):
    """Charges and refunds of one user must happen one after the other, or the count is not exact."""
    reply_id = room.send("Hello")
    with ThreadPoolExecutor(1) as pool:
        with room.app.app_context(), transaction():
            db.session.execute(text("SELECT id FROM users FOR NO KEY UPDATE"))
            canceled = pool.submit(cancel, room, reply_id)
            assert wait_until(somebody_waits_for_a_lock, seconds=10)
        assert canceled.result(20).json["status"] == "canceled"
    assert room.used() == 0


def test_a_running_reply_stops_within_a_moment_and_keeps_its_text_so_far(room, runner, gemini):
    reply_id = room.send(PROMPT, stream=True)
    response = room.person.get(f"{room.path}/messages/{reply_id}/stream")
    stream, received = events_of(response.response), []
    thread = room.generate_meanwhile(runner, reply_id)
    while sum(event.name == "delta" for event in received) < 3:
        received.append(next(stream))
    answer = cancel(room, reply_id)
    thread.join(20)
    assert not thread.is_alive()
    assert answer.json["status"] == "canceled"
    assert answer.json["text"]
    assert SAID.startswith(answer.json["text"])
    received += list(stream)
    response.close()
    assert received[-1].name == "canceled"
    assert text_of(received) == answer.json["text"] == room.read(reply_id).text
    assert room.used() == 1


def test_a_client_that_reads_late_gets_only_the_kept_part_of_a_canceled_reply(room, runner):
    reply_id = room.send("[[sandbox: words=200 pace=0.02]]", stream=True)
    stream = follow(room, reply_id)
    thread = room.generate_meanwhile(runner, reply_id)
    received = [next(stream) for _ in range(5)]
    answer = cancel(room, reply_id)
    thread.join(20)  # the worker writes on until it notices
    received += list(stream)
    assert "reset" not in names(received)
    assert text_of(received) == answer.json["text"]


def test_a_running_reply_that_is_not_streamed_is_canceled_without_a_text(room, runner, gemini):
    reply_id = room.send("[[sandbox: hang]]")
    thread = room.generate_meanwhile(runner, reply_id)
    gemini.wait_for(in_flight_at_least=1)
    answer = cancel(room, reply_id)
    thread.join(20)
    assert not thread.is_alive()
    assert (answer.json["status"], answer.json["text"]) == ("canceled", None)
    assert room.used() == 1


def test_another_reply_of_the_same_worker_goes_on(room, runner, gemini):
    other = Room(room.app, room.person, room.person.make_chatroom())
    gemini.behave(hang=True)
    threads, replies = [], []
    for number, one in enumerate((other, room), 1):
        replies.append(one.send("Hello"))
        threads.append(one.generate_meanwhile(runner, replies[-1]))
        gemini.wait_for(in_flight_at_least=number)
    cancel(room, replies[1])
    threads[1].join(20)
    gemini.reset()
    threads[0].join(20)
    assert other.read(replies[0]).status == "completed"


def test_a_reply_that_waits_for_its_retry_is_canceled_and_its_prompt_stays_spent(room, runner):
    reply_id = room.send("[[sandbox: status=503 retry_after=30]]")
    room.generate(runner, reply_id)
    assert cancel(room, reply_id).json["status"] == "canceled"
    assert room.used() == 1  # a worker had taken it


def test_a_failed_reply_whose_text_was_published_is_not_refunded(room, runner, gemini):
    reply_id = room.send("[[sandbox: words=20 drop_after=5]] Tell me", stream=True)
    room.generate(runner, reply_id)
    assert room.row(reply_id).status == "queued"
    gemini.behave(status=400)
    room.sql("UPDATE messages SET not_before = now() WHERE id = :id", id=reply_id)
    room.generate(runner, reply_id)
    reply = room.read(reply_id)
    assert (reply.status, room.used()) == ("failed", 1)
    assert "refunded" not in reply.error["message"]


def test_a_failed_retry_whose_text_was_not_published_is_refunded(room, runner, gemini):
    reply_id = room.send("[[sandbox: words=20 drop_after=5]] Tell me", stream=True)
    room.generate(runner, reply_id)
    cancel(room, reply_id)
    assert room.person.post(f"{room.path}/messages/{reply_id}/retry").status_code == 202
    gemini.behave(status=400)
    room.generate(runner, reply_id)
    reply = room.read(reply_id)
    assert (reply.status, room.used()) == ("failed", 1)  # the first prompt stays spent
    assert reply.error["message"].endswith("The prompt was refunded.")


@pytest.mark.parametrize("prompt", ['[[sandbox: say="Done"]]', "[[sandbox: block]]"])
def test_a_reply_that_has_ended_cannot_be_canceled(room, runner, prompt):
    reply = room.answer(runner, prompt)
    answer = cancel(room, reply.id)
    assert (answer.status_code, answer.json["code"]) == (409, "reply_not_cancelable")
    assert room.read(reply.id) == reply


def test_canceling_twice_refunds_once(room):
    reply_id = room.send("Hello")
    assert [cancel(room, reply_id).status_code for _ in range(2)] == [200, 409]
    assert room.used() == 0
    assert len([charge for charge in room.charges() if charge.refunded_at]) == 1


def test_canceling_a_retry_that_no_worker_took_refunds_its_own_prompt(room, runner):
    reply_id = room.send("[[sandbox: status=503 retry_after=30]]")
    room.generate(runner, reply_id)
    cancel(room, reply_id)
    assert retry(room, reply_id).status_code == 202
    assert room.used() == 2
    assert cancel(room, reply_id).json["status"] == "canceled"
    assert room.used() == 1  # what the first attempt cost stays spent
    room.generate(runner, reply_id)
    assert room.row(reply_id).attempt == 1


def test_a_cancel_that_a_cancel_and_a_retry_overtake_refunds_the_retry(room, runner, quiet_app):
    """It read a reply that a worker had taken, and cancels one that looks the same but that no worker has taken yet."""
    reply_id = room.send("[[sandbox: status=503 retry_after=30]]")
    room.generate(runner, reply_id)
    acts, overtaken = (cancel, retry), []

    def overtake(_connection, _cursor, statement, *_):
        if "FROM users" in statement and "FOR NO KEY UPDATE" in statement and not overtaken:
            overtaken.append(None)
            with ThreadPoolExecutor(1) as other:
                overtaken.extend(answer.status_code for answer in other.map(lambda act: act(room, reply_id), acts))

    with quiet_app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", overtake)
    assert cancel(room, reply_id).json["status"] == "canceled"
    event.remove(engine, "before_cursor_execute", overtake)
    assert overtaken == [None, 200, 202]
    assert room.used() == 1


def test_canceling_an_operators_retry_refunds_nothing(room, runner, app):
    reply_id = room.answer(runner, "[[sandbox: block]]").id
    assert app.test_cli_runner().invoke(args=["replies", "retry", str(reply_id)]).exit_code == 0
    assert cancel(room, reply_id).json["status"] == "canceled"
    assert room.used() == 1  # as before: a blocked prompt is not refunded


def test_a_prompt_can_be_neither_canceled_nor_retried(room):
    prompt_id = room.row(room.send("Hello")).in_reply_to
    assert cancel(room, prompt_id).json["code"] == "reply_not_cancelable"
    assert retry(room, prompt_id).json["code"] == "reply_not_retryable"


def test_strangers_can_neither_cancel_nor_retry(room, make_user):
    reply_id = room.send("Hello")
    for verb in ("cancel", "retry"):
        assert make_user().post(f"{room.path}/messages/{reply_id}/{verb}").status_code == 404
    assert room.read(reply_id).status == "queued"


def test_the_next_reply_goes_on_after_a_cancel_and_an_empty_part_breaks_nothing(room, runner):
    first, second = room.send("One"), room.send('[[sandbox: say="Two"]]')
    cancel(room, first)
    room.generate(runner, second)
    assert room.read(second).text == "Two"


def test_a_cancellation_is_answered_even_when_its_connection_is_then_lost(room, monkeypatch):
    reply_id = room.send("Hello")
    monkeypatch.setattr(queueing, "HAS_WAITING_REPLIES", text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert cancel(room, reply_id).json["status"] == "canceled"
