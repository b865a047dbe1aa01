"""Canceling a reply at each stage, and having one made again after each kind of end."""

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import event, text

from app.core.broker import GENERATIONS
from app.core.db import db
from app.core.transactions import transaction
from app.generation import queueing, state
from app.generation.queueing import GENERATE_REPLY
from app.integrations.gemini.client import Answer, FinishReason, TokenUsage
from sandbox.stack.processes import wait_until
from tests.event_streams import events_of, follow, text_of
from tests.queues import waiting_tasks
from tests.rooms import somebody_waits_for_a_lock

SAID = "One two three four five six."
PROMPT = f'[[sandbox: hang_after=3]] [[sandbox: say="{SAID}"]]'


def cancel(room, reply_id):
    return room.person.post(f"{room.path}/messages/{reply_id}/cancel")


def retry(room, reply_id):
    return room.person.post(f"{room.path}/messages/{reply_id}/retry")


def test_a_queued_reply_is_canceled_and_its_prompt_given_back(room, runner, gemini):
    gemini.clear_requests()
    reply_id = room.send("Hello")
    answer = cancel(room, reply_id)
    assert (answer.status_code, answer.json["status"], answer.json["text"]) == (200, "canceled", None)
    assert answer.json["completed_at"]
    assert room.used() == 0
    room.generate(runner, reply_id)
    assert gemini.stats()["calls"] == 0
    assert room.read(reply_id).status == "canceled"


def test_a_running_reply_stops_at_once_and_keeps_its_part(room, make_runner, gemini):
    runner = make_runner(lease_seconds=300)  # which tells nothing in time
    reply_id = room.send(PROMPT, stream=True)
    response = room.person.get(f"{room.path}/messages/{reply_id}/stream")
    stream, received = events_of(response.response), []
    thread = room.generate_meanwhile(runner, reply_id)
    while sum(event.name == "delta" for event in received) < 3:
        received.append(next(stream))
    answer = cancel(room, reply_id)
    thread.join(5)
    assert not thread.is_alive()
    assert answer.json["status"] == "canceled"
    assert answer.json["text"]
    assert SAID.startswith(answer.json["text"])
    received += list(stream)
    response.close()
    assert received[-1].name == "canceled"
    assert text_of(received) == answer.json["text"] == room.read(reply_id).text
    assert room.used() == 1


def test_a_running_reply_that_is_not_streamed_is_canceled_without_a_text(room, make_runner, gemini):
    reply_id = room.send("[[sandbox: hang]]")
    thread = room.generate_meanwhile(make_runner(lease_seconds=300), reply_id)
    gemini.wait_for(in_flight_at_least=1)
    answer = cancel(room, reply_id)
    thread.join(5)
    assert not thread.is_alive()
    assert (answer.json["status"], answer.json["text"]) == ("canceled", None)
    assert room.used() == 1


def test_a_reply_that_waits_for_its_retry_is_canceled_and_its_prompt_stays_spent(room, runner):
    reply_id = room.send("[[sandbox: status=503 retry_after=30]]")
    room.generate(runner, reply_id)
    assert cancel(room, reply_id).json["status"] == "canceled"
    assert room.used() == 1  # a worker had taken it


def test_a_reply_of_which_text_was_published_keeps_its_prompt_when_it_fails(room, runner, gemini):
    reply_id = room.send("[[sandbox: words=20 drop_after=5]] Tell me", stream=True)
    room.generate(runner, reply_id)
    assert room.row(reply_id).status == "queued"
    gemini.behave(status=400)
    room.sql("UPDATE messages SET not_before = now() WHERE id = :id", id=reply_id)
    room.generate(runner, reply_id)
    reply = room.read(reply_id)
    assert (reply.status, room.used()) == ("failed", 1)
    assert "refunded" not in reply.error["message"]


def test_a_retry_of_which_no_text_was_published_is_refunded(room, runner, gemini):
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
def test_what_has_ended_cannot_be_canceled(room, runner, prompt):
    reply = room.answer(runner, prompt)
    answer = cancel(room, reply.id)
    assert (answer.status_code, answer.json["code"]) == (409, "reply_not_cancelable")
    assert room.read(reply.id) == reply


def test_canceling_twice_gives_back_once(room):
    reply_id = room.send("Hello")
    assert [cancel(room, reply_id).status_code for _ in range(2)] == [200, 409]
    assert room.used() == 0
    assert len([charge for charge in room.charges() if charge.refunded_at]) == 1


def test_a_retry_that_no_worker_took_gives_its_own_prompt_back(room, runner):
    reply_id = room.send("[[sandbox: status=503 retry_after=30]]")
    room.generate(runner, reply_id)
    cancel(room, reply_id)
    assert retry(room, reply_id).status_code == 202
    assert room.used() == 2
    assert cancel(room, reply_id).json["status"] == "canceled"
    assert room.used() == 1  # what the first attempt cost stays spent
    room.generate(runner, reply_id)
    assert room.row(reply_id).attempt == 1


def test_a_cancel_that_a_cancel_and_a_retry_overtake_gives_the_retrys_prompt_back(room, runner, quiet_app):
    """What it read, a reply that a worker had taken, looks like what it cancels, one that none has taken since."""
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


def test_an_operators_retry_that_is_canceled_gives_nothing_back(room, runner, app):
    reply_id = room.answer(runner, "[[sandbox: block]]").id
    assert app.test_cli_runner().invoke(args=["replies", "retry", str(reply_id)]).exit_code == 0
    assert cancel(room, reply_id).json["status"] == "canceled"
    assert room.used() == 1  # as before: a blocked prompt is not refunded


def test_a_prompt_is_no_reply(room):
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


@pytest.mark.parametrize("directive", ["block", "empty", "status=400", "status=404"])
def test_a_failed_reply_is_made_again_for_one_prompt(room, runner, gemini, directive):
    fields = {"status=400": {"status": 400}, "status=404": {"status": 404}}.get(directive, {directive: True})
    gemini.behave(**fields)
    reply = room.answer(runner, f'[[sandbox: say="{SAID}"]]')
    assert reply.status == "failed"
    spent = room.used()
    gemini.reset()
    answer = retry(room, reply.id)
    assert (answer.status_code, answer.json["status"], answer.json["error"]) == (202, "queued", None)
    assert answer.headers["RateLimit-Remaining"] == str(5 - spent - 1)
    assert answer.headers["Location"].endswith(reply.id)
    room.generate(runner, reply.id)
    assert room.read(reply.id).text == SAID
    assert room.used() == spent + 1


def test_a_kept_part_stays_until_the_new_text_is_there(room, runner, gemini):
    gemini.behave(hang_after=3)
    reply_id = room.send(f'[[sandbox: say="{SAID}"]]', stream=True)
    thread = room.generate_meanwhile(runner, reply_id)
    gemini.wait_for(in_flight_at_least=1)
    while room.app.extensions["redis"].xlen(f"reply:{reply_id}:events") < 4:
        time.sleep(0.01)
    part = cancel(room, reply_id).json["text"]
    thread.join()
    gemini.reset()
    assert retry(room, reply_id).json["text"] == part
    gemini.behave(status=404)
    room.generate(runner, reply_id)
    failed = room.read(reply_id)
    assert (failed.status, failed.text) == ("failed", part)
    gemini.reset()
    retry(room, reply_id)
    room.generate(runner, reply_id)
    assert room.read(reply_id).text == SAID


def test_a_retry_that_is_canceled_before_its_part_is_known_begins_the_kept_text_anew(room, runner, gemini):
    """Its followers have some of a text that is not kept."""
    gemini.behave(hang_after=3, say=SAID)
    reply_id = room.send("Hello", stream=True)
    thread = room.generate_meanwhile(runner, reply_id)
    client, key = room.app.extensions["redis"], f"reply:{reply_id}:events"
    assert wait_until(lambda: client.xlen(key) >= 4, seconds=10)
    kept = cancel(room, reply_id).json["text"]
    thread.join()
    gemini.reset()
    gemini.behave(hang_after=3, say="Uno dos tres cuatro cinco.")
    retry(room, reply_id)
    stream = follow(room, reply_id)
    thread = room.generate_meanwhile(runner, reply_id)
    events = [next(stream)]
    while text_of(events) != "Uno dos tres":
        events.append(next(stream))
    client.delete(key)
    assert cancel(room, reply_id).json["text"] == kept
    thread.join()
    gemini.reset()
    events += list(stream)
    assert text_of(events) == kept
    assert text_of(list(follow(room, reply_id, events[-1].id)), kept) == kept


def test_a_retry_that_broke_off_and_is_canceled_while_it_waits_begins_the_kept_text_anew(room, runner, gemini):
    gemini.behave(hang_after=3, say=SAID)
    reply_id = room.send("Hello", stream=True)
    thread = room.generate_meanwhile(runner, reply_id)
    client, key = room.app.extensions["redis"], f"reply:{reply_id}:events"
    assert wait_until(lambda: client.xlen(key) >= 4, seconds=10)
    kept = cancel(room, reply_id).json["text"]
    thread.join()
    gemini.reset()
    gemini.behave(drop_after=3, say="Uno dos tres cuatro cinco.")
    retry(room, reply_id)
    stream = follow(room, reply_id)
    room.generate(runner, reply_id)
    events = [next(stream)]
    while text_of(events) != "Uno dos tres":
        events.append(next(stream))
    assert room.read(reply_id).status == "queued"
    assert cancel(room, reply_id).json["text"] == kept
    assert text_of(events + list(stream)) == kept


def test_a_cancellation_is_answered_although_its_connection_is_lost_at_that_moment(room, monkeypatch):
    def lose_the_connection(*_):
        db.session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    reply_id = room.send("Hello")
    monkeypatch.setattr(queueing, "somebody_waits", lose_the_connection)
    assert cancel(room, reply_id).json["status"] == "canceled"


def test_a_retried_reply_sees_only_the_turns_before_it(room, runner, gemini):
    room.answer(runner, "First")
    second = room.answer(runner, "[[sandbox: block]]")
    room.answer(runner, "Third")
    retry(room, second.id)
    room.generate(runner, second.id)
    contents = gemini.requests()[-1]["contents"]
    assert "First" in str(contents)
    assert "Third" not in str(contents)


def test_a_retried_reply_waits_for_the_one_that_is_generated(room, runner, gemini):
    first = room.answer(runner, "[[sandbox: block]]")
    second = room.send("[[sandbox: delay=2]] Second")
    thread = room.generate_meanwhile(runner, second)
    gemini.wait_for(in_flight_at_least=1)
    retry(room, first.id)
    room.generate(runner, UUID(first.id))
    assert (room.read(first.id).status, room.read(second).status) == ("queued", "generating")
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


def test_a_retried_reply_goes_on_when_the_later_one_is_put_back(room, runner, gemini):
    first = UUID(room.answer(runner, "[[sandbox: block]]").id)
    second = room.send("[[sandbox: delay=1 status=503 retry_after=30]]")
    thread = room.generate_meanwhile(runner, second)
    gemini.wait_for(in_flight_at_least=1)
    retry(room, first)
    room.generate(runner, first)
    assert room.read(first).status == "queued"
    thread.join()
    queued_then = waiting_tasks(room.app.extensions["redis"], GENERATIONS)[-2:]  # it, and the one that was put back
    assert ("messages.generate_reply", (str(first),)) in queued_then


def test_of_two_replies_claimed_at_one_moment_one_is_generated(room, runner, gemini):
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
    """Its task is taken when the end is written and not committed, and finds the room busy."""
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


def test_a_retry_goes_under_its_own_request_id(room, runner, gemini):
    reply = room.answer(runner, "[[sandbox: block]]")
    room.person.post(f"{room.path}/messages/{reply.id}/retry", headers={"X-Request-ID": "asked-again"})
    assert room.row(reply.id).request_id == "asked-again"


def test_what_has_not_ended_cannot_be_retried_and_nothing_is_spent(room):
    answer = retry(room, room.send("Hello"))
    assert (answer.status_code, answer.json["code"]) == (409, "reply_not_retryable")
    assert room.used() == 1


def test_a_retry_needs_a_prompt_of_the_day(room, runner):
    reply = room.answer(runner, "[[sandbox: block]]")
    for _ in range(4):
        room.send("Hello")
    answer = retry(room, reply.id)
    assert (answer.status_code, answer.json["code"]) == (429, "daily_quota_exceeded")
    assert room.read(reply.id).status == "failed"


def test_a_retry_that_fails_gives_its_own_prompt_back(room, runner, gemini):
    reply = room.answer(runner, "[[sandbox: block]]")
    assert room.used() == 1
    retry(room, reply.id)
    assert room.used() == 2
    gemini.behave(status=404)
    room.generate(runner, reply.id)
    assert room.read(reply.id).error["code"] == "model_rejected"
    assert room.used() == 1


def test_a_follower_of_a_retried_reply_gets_the_new_text(room, runner, gemini):
    gemini.behave(block=True)
    reply_id = room.send(f'[[sandbox: say="{SAID}"]]', stream=True)
    room.generate(runner, reply_id)
    gemini.reset()
    retry(room, reply_id)
    response = room.person.get(f"{room.path}/messages/{reply_id}/stream")
    room.generate(runner, reply_id)
    events = list(events_of(response.response))
    response.close()
    assert events[-1].name == "completed"
    assert text_of(events) == SAID
