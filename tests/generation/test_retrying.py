"""Regenerating a reply after each kind of end."""

from datetime import timedelta
from uuid import UUID

import pytest

from app.core.clock import utc_now
from app.messages.service import accept_prompt
from sandbox.stack.processes import wait_until
from tests.event_streams import events_of, follow, text_of
from tests.rooms import cancel, retry

SAID = "One two three four five six."


@pytest.mark.parametrize("directive", ["block", "empty", "status=400", "status=404"])
def test_a_failed_reply_can_be_retried_for_one_prompt(room, runner, gemini, directive):
    fields = {"status=400": {"status": 400}, "status=404": {"status": 404}}.get(directive, {directive: True})
    gemini.behave(**fields)
    reply_id = room.send(f'[[sandbox: say="{SAID}"]]')
    for _ in range(3):  # an empty answer is no failure yet
        room.sql("UPDATE messages SET not_before = NULL WHERE role = 'model'")
        room.generate(runner, reply_id)
    reply = room.read(reply_id)
    assert reply.status == "failed"
    spent = room.used()
    gemini.reset()
    answer = retry(room, reply.id)
    assert (answer.status_code, answer.json["status"], answer.json["error"]) == (202, "queued", None)
    assert answer.json["context"] is None  # Gemini was not asked yet
    assert answer.headers["RateLimit-Remaining"] == str(5 - spent - 1)
    assert answer.headers["Location"].endswith(reply.id)
    room.generate(runner, reply.id)
    assert room.read(reply.id).text == SAID
    assert room.used() == spent + 1


def canceled_part(room, runner, gemini):
    """Make a reply that is canceled while it is written. Returns its id and the kept part."""
    gemini.behave(hang_after=3, say=SAID)
    reply_id = room.send("Hello", stream=True)
    thread = room.generate_meanwhile(runner, reply_id)
    client, key = room.app.extensions["redis"], f"reply:{reply_id}:events"
    assert wait_until(lambda: client.xlen(key) >= 4, seconds=10)
    kept = cancel(room, reply_id).json["text"]
    thread.join()
    gemini.reset()
    return reply_id, kept


def test_a_kept_part_stays_until_the_new_text_is_there(room, runner, gemini):
    reply_id, part = canceled_part(room, runner, gemini)
    assert retry(room, reply_id).json["text"] == part
    gemini.behave(status=404)
    room.generate(runner, reply_id)
    failed = room.read(reply_id)
    assert (failed.status, failed.text) == ("failed", part)
    gemini.reset()
    gemini.behave(say=SAID)
    retry(room, reply_id)
    room.generate(runner, reply_id)
    assert room.read(reply_id).text == SAID


def test_canceling_a_retry_whose_part_is_lost_restarts_the_stream_with_the_kept_text(room, runner, gemini):
    """Its followers have some of a text that is not kept."""
    reply_id, kept = canceled_part(room, runner, gemini)
    gemini.behave(hang_after=3, say="Uno dos tres cuatro cinco.")
    retry(room, reply_id)
    stream = follow(room, reply_id)
    thread = room.generate_meanwhile(runner, reply_id)
    events = [next(stream)]
    while text_of(events) != "Uno dos tres":
        events.append(next(stream))
    room.app.extensions["redis"].delete(f"reply:{reply_id}:events")
    assert cancel(room, reply_id).json["text"] == kept
    thread.join()
    gemini.reset()
    events += list(stream)
    assert text_of(events) == kept
    assert text_of(list(follow(room, reply_id, events[-1].id)), kept) == kept


def test_canceling_a_retry_that_broke_off_restarts_the_stream_with_the_kept_text(room, runner, gemini):
    reply_id, kept = canceled_part(room, runner, gemini)
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


def test_a_retried_reply_sees_only_the_turns_before_it(room, runner, gemini):
    room.answer(runner, "First")
    second = room.answer(runner, "[[sandbox: block]]")
    room.answer(runner, "Third")
    retry(room, second.id)
    room.generate(runner, second.id)
    contents = gemini.requests()[-1]["contents"]
    assert "First" in str(contents)
    assert "Third" not in str(contents)


def test_a_retry_has_its_own_request_id(room, runner, gemini):
    reply = room.answer(runner, "[[sandbox: block]]")
    room.person.post(f"{room.path}/messages/{reply.id}/retry", headers={"X-Request-ID": "asked-again"})
    assert room.row(reply.id).request_id == "asked-again"


def test_a_reply_that_has_not_ended_cannot_be_retried_and_nothing_is_spent(room):
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


def test_a_retry_that_fails_refunds_its_own_prompt(room, runner, gemini):
    reply = room.answer(runner, "[[sandbox: block]]")
    assert room.used() == 1
    retry(room, reply.id)
    assert room.used() == 2
    gemini.behave(status=404)
    room.generate(runner, reply.id)
    assert room.read(reply.id).error["code"] == "model_rejected"
    assert room.used() == 1


def test_canceling_a_retry_refunds_it_even_when_its_machines_clock_is_behind(room):
    with room.app.app_context():
        ids = UUID(room.person.id), UUID(room.path.rsplit("/", 1)[1])
        reply_id = str(accept_prompt(*ids, "Hello", now=utc_now() + timedelta(seconds=10)).reply.id)
    for spent in (lambda: None, lambda: retry(room, reply_id)):
        spent()
        assert room.used() == 1
        assert cancel(room, reply_id).status_code == 200
        assert room.used() == 0


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
