"""Following a reply as it is written: whole, resumed, over retries, and with Redis gone."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from flask import Flask

from app.chatrooms.models import Context, Status
from app.streaming import events as reply_events
from app.streaming.following import RELOAD_AFTER_SECONDS
from sandbox.stack.servers import ValkeyServer
from tests.event_streams import follow, names, text_of
from tests.rooms import cancel, retry

SAID = "One two three 😀 vier fünf."
PROMPT = f'[[sandbox: say="{SAID}"]]'


def test_the_deltas_are_the_stored_text(room, runner):
    reply_id = room.send(PROMPT, stream=True)
    stream = follow(room, reply_id)
    first = next(stream)
    assert (first.name, first.data) == ("status", {"status": "queued"})
    thread = room.generate_meanwhile(runner, reply_id)
    events = list(stream)
    thread.join()
    assert names(events)[:2] == ["status", "context"]
    assert names(events).count("delta") > 3
    assert names(events)[-1] == "completed"
    assert text_of(events) == room.read(reply_id).text == events[-1].data["message"]["text"] == SAID
    assert events[-1].id == f"1:{len(SAID)}"


def test_a_finished_reply_is_sent_at_once_even_when_redis_has_lost_it(room, runner):
    reply_id = room.send(PROMPT, stream=True)
    room.generate(runner, reply_id)
    room.app.extensions["redis"].flushdb()
    events = list(follow(room, reply_id))
    assert names(events) == ["context", "delta", "completed"]
    assert text_of(events) == SAID


def test_a_reply_that_was_not_streamed_comes_in_one_delta(room, runner):
    reply_id = room.send(PROMPT)
    stream = follow(room, reply_id)
    next(stream)
    thread = room.generate_meanwhile(runner, reply_id)
    events = list(stream)
    thread.join()
    assert names(events) == ["context", "delta", "completed"]
    assert text_of(events) == SAID


@pytest.mark.parametrize("redis_forgot", [False, True])
def test_a_resume_at_every_event_neither_loses_nor_repeats(room, runner, redis_forgot):
    reply_id = room.send(PROMPT, stream=True)
    stream = follow(room, reply_id)
    thread = room.generate_meanwhile(runner, reply_id)
    events = list(stream)
    thread.join()
    if redis_forgot:
        room.app.extensions["redis"].flushdb()
    for index, event in enumerate(events):
        if event.id is None:
            continue
        so_far = text_of(events[: index + 1])
        assert text_of(list(follow(room, reply_id, event.id)), so_far) == SAID


@pytest.mark.parametrize("redis_forgot", [False, True])
def test_a_resume_in_mid_reply_goes_on_where_it_was(room, runner, gemini, redis_forgot):
    reply_id = room.send(f"[[sandbox: hang_after=3]] {PROMPT}", stream=True)
    stream = follow(room, reply_id)
    thread = room.generate_meanwhile(runner, reply_id)
    received = []
    while names(received).count("delta") < 3:
        received.append(next(stream))
    if redis_forgot:
        room.app.extensions["redis"].flushdb()
    stream.close()
    again = follow(room, reply_id, received[-1].id)
    assert next(again).name == "status"
    gemini.reset()
    thread.join()
    assert text_of(list(again), text_of(received)) == room.read(reply_id).text == SAID


def test_a_stream_in_redis_expires_even_when_nobody_ends_it(room, runner, gemini):
    """Its time to live starts with the attempt, and again at the attempt's end."""
    reply_id = room.send(f"[[sandbox: hang_after=3]] {PROMPT}", stream=True)
    client, key = room.app.extensions["redis"], reply_events.stream_key(reply_id)
    stream = follow(room, reply_id)
    thread = room.generate_meanwhile(runner, reply_id)
    while next(stream).name != "delta":
        pass
    stream.close()
    assert 800 < client.ttl(key) <= 900
    client.expire(key, 300)
    gemini.reset()
    thread.join()
    assert 800 < client.ttl(key) <= 900


def test_another_attempt_begins_with_a_reset(room, runner):
    reply_id = room.send(f"[[sandbox: drop_after=3 times=1]] {PROMPT}", stream=True)
    stream = follow(room, reply_id)
    room.generate(runner, reply_id)
    assert room.row(reply_id).failures == 1
    received = []
    while names(received).count("delta") < 3:
        received.append(next(stream))
    room.sql("UPDATE messages SET not_before = NULL WHERE role = 'model'")
    room.generate(runner, reply_id)
    received += list(stream)
    assert "reset" in names(received)
    assert text_of(received) == room.read(reply_id).text == SAID


@pytest.mark.parametrize("is_asked_for_again", [False, True])
def test_a_follower_who_comes_between_two_attempts_gets_nothing_of_the_first(room, runner, is_asked_for_again):
    reply_id = room.send(f"[[sandbox: drop_after=3 times=1]] {PROMPT}", stream=True)
    room.sql(f"UPDATE messages SET failures = {2 if is_asked_for_again else 0}")
    room.generate(runner, reply_id)
    if is_asked_for_again:
        assert retry(room, reply_id).status_code == 202
    stream = follow(room, reply_id)
    received = [next(stream)]
    room.sql("UPDATE messages SET not_before = NULL WHERE role = 'model'")
    thread = room.generate_meanwhile(runner, reply_id)
    received += list(stream)
    thread.join()
    assert names(received)[:2] == ["status", "status"]
    assert not {"reset", "queued"} & set(names(received))
    assert {event.id.split(":")[0] for event in received if event.name == "delta"} == {"2"}
    assert text_of(received) == room.read(reply_id).text == SAID


def test_a_follower_hears_at_once_of_a_cancel_between_two_attempts(room, runner):
    reply_id = room.send(f"[[sandbox: drop_after=3 times=1]] {PROMPT}", stream=True)
    room.generate(runner, reply_id)
    stream = follow(room, reply_id)
    assert next(stream).data == {"status": "queued"}
    cancel(room, reply_id)
    began = time.monotonic()
    assert names(list(stream))[-1] == "canceled"
    assert time.monotonic() - began < RELOAD_AFTER_SECONDS / 2


def test_a_reply_blocked_after_some_pieces_takes_them_back(room, runner):
    reply_id = room.send('[[sandbox: finish=SAFETY say="One two three four"]]', stream=True)
    stream = follow(room, reply_id)
    room.generate(runner, reply_id)
    events = list(stream)
    assert names(events)[-1] == "failed"
    assert text_of(events) == ""
    assert room.read(reply_id).text is None


def test_an_invalid_last_event_id_begins_from_the_start(room, runner):
    reply_id = room.send(PROMPT, stream=True)
    room.generate(runner, reply_id)
    for nonsense in ("x", "1:", ":1", "-1:5", "1:2:3", "9" * 50):
        assert text_of(list(follow(room, reply_id, nonsense))) == SAID


def test_a_last_event_id_beyond_the_text_is_reset(room, runner):
    reply_id = room.send(PROMPT, stream=True)
    room.generate(runner, reply_id)
    events = list(follow(room, reply_id, "1:999"))
    assert names(events) == ["reset", "context", "delta", "completed"]
    assert [event.id for event in events] == ["1:0", "1:0", f"1:{len(SAID)}", f"1:{len(SAID)}"]
    assert text_of(events, "something else") == SAID


def fill(server: ValkeyServer) -> None:
    """Make the server refuse all writes, that of the reply's end among them."""
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 1)


@pytest.mark.parametrize("suffer", [ValkeyServer.kill, pytest.param(fill, marks=pytest.mark.processes)])
def test_a_reply_completes_and_is_followed_while_redis_dies_or_is_full(
    make_app: Callable[..., Flask], make_user: Callable[..., Any], make_runner_for: Any, gemini: Any, suffer: Any
):
    with ValkeyServer(append_only=False) as own:
        other = make_app(redis_url=own.url)
        person = make_user()
        person.client = other.test_client()
        room = make_runner_for(other, person)
        reply_id = room.send(f"[[sandbox: hang_after=3]] {PROMPT}", stream=True)
        stream = follow(room, reply_id)
        thread = room.generate_meanwhile(room.runner, reply_id)
        received: list[Any] = []
        while names(received).count("delta") < 3:
            received.append(next(stream))
        suffer(own)
        gemini.reset()
        thread.join()
        ended = time.monotonic()
        received += list(stream)
        assert time.monotonic() - ended < 40  # the row is looked at every 15 seconds
        assert names(received)[-1] == "completed"
        assert text_of(received) == room.read(reply_id).text == SAID


def test_only_the_pieces_before_an_end_are_kept(room):
    with room.app.app_context():
        reply_id = room.send(PROMPT, stream=True)
        publisher = reply_events.Publisher(reply_id, 1, Context(1, 0))
        publisher.pass_on("Before ")
        end = reply_events.publish(reply_id, reply_events.Entry(1, status=Status.CANCELED))
        publisher.pass_on("after")
        assert reply_events.pieces_until(reply_id, end, 1) == "Before "


def test_only_the_pieces_of_the_canceled_attempt_are_kept(room):
    with room.app.app_context():
        reply_id = room.send(PROMPT, stream=True)
        for attempt, piece in ((1, "Broken "), (2, "Whole ")):
            reply_events.Publisher(reply_id, attempt, Context(1, 0)).pass_on(piece)
        end = reply_events.publish(reply_id, reply_events.Entry(2, status=Status.CANCELED))
        assert reply_events.pieces_until(reply_id, end, 2) == "Whole "


def test_no_piece_is_published_after_one_that_redis_did_not_take(room, monkeypatch):
    """Each would wait for Redis, and the reply with it."""
    tried = []

    def fail(_reply_id: Any, entry: reply_events.Entry) -> str:
        tried.append(entry.piece)
        raise redis.ConnectionError

    with room.app.app_context():
        publisher = reply_events.Publisher(room.send(PROMPT, stream=True), 1, Context(1, 0))
        monkeypatch.setattr(reply_events, "publish", fail)
        for piece in ("One ", "two ", "three"):
            publisher.pass_on(piece)
    assert tried == ["One "]


def test_nothing_is_published_of_a_reply_that_may_not_begin(room):
    with room.app.app_context():
        reply_id = room.send(PROMPT, stream=True)
        publisher = reply_events.Publisher(reply_id, 1, Context(1, 0), may_publish=lambda: False)
        publisher.pass_on("Before ")
        publisher.pass_on("after")
        end = reply_events.publish(reply_id, reply_events.Entry(1, status=Status.CANCELED))
        assert reply_events.pieces_until(reply_id, end, 1) == ""
