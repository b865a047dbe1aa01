"""Following a reply as it is written: whole, resumed, over retries, and with Redis gone."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import redis
from flask import Flask

from app.core import draining
from app.messages import reply_stream as reply_events
from app.messages import streaming
from app.messages.models import Status
from app.messages.streaming import Follower
from sandbox.stack.servers import valkey_server
from tests.messages.event_streams import events_of, text_of

SAID = "One two three 😀 vier fünf."
PROMPT = f'[[sandbox: say="{SAID}"]]'


def follow(room, reply_id, last_event_id=None):
    """Open the stream; an iterator over its events."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    response = room.person.get(f"{room.path}/messages/{reply_id}/stream", headers=headers)
    assert response.status_code == 200, response.text
    assert response.mimetype == "text/event-stream"
    assert (response.headers["Cache-Control"], response.headers["X-Accel-Buffering"]) == ("no-store", "no")
    return Stream(response)


class Stream:
    """The events of an open stream, as they come."""

    def __init__(self, response):
        self.response, self.events = response, events_of(response.response)

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self.events)
        except StopIteration:
            self.close()
            raise

    def close(self):
        self.response.close()


def names(events):
    return [event.name for event in events]


def test_the_deltas_are_the_stored_text(room, generator):
    reply_id = room.send(PROMPT, stream=True)
    stream = follow(room, reply_id)
    first = next(stream)
    assert (first.name, first.data) == ("status", {"status": "queued"})
    thread = room.generate_meanwhile(generator, reply_id)
    events = list(stream)
    thread.join()
    assert names(events)[0] == "status"
    assert names(events).count("delta") > 3
    assert names(events)[-1] == "completed"
    assert text_of(events) == room.read(reply_id).text == events[-1].data["message"]["text"] == SAID
    assert events[-1].id == f"1:{len(SAID)}"


def test_a_reply_that_is_done_is_told_at_once_also_when_redis_forgot_it(room, generator):
    reply_id = room.send(PROMPT, stream=True)
    room.generate(generator, reply_id)
    room.app.extensions["redis"].flushdb()
    events = list(follow(room, reply_id))
    assert names(events) == ["delta", "completed"]
    assert text_of(events) == SAID


def test_a_reply_that_was_not_streamed_comes_in_one_delta(room, generator):
    reply_id = room.send(PROMPT)
    stream = follow(room, reply_id)
    next(stream)
    thread = room.generate_meanwhile(generator, reply_id)
    events = list(stream)
    thread.join()
    assert names(events) == ["delta", "completed"]
    assert text_of(events) == SAID


@pytest.mark.parametrize("redis_forgot", [False, True])
def test_a_resume_at_every_event_neither_loses_nor_repeats(room, generator, redis_forgot):
    reply_id = room.send(PROMPT, stream=True)
    stream = follow(room, reply_id)
    thread = room.generate_meanwhile(generator, reply_id)
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
def test_a_resume_in_mid_reply_goes_on_where_it_was(room, generator, gemini, redis_forgot):
    reply_id = room.send(f"[[sandbox: hang_after=3]] {PROMPT}", stream=True)
    stream = follow(room, reply_id)
    thread = room.generate_meanwhile(generator, reply_id)
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


def test_another_attempt_announces_itself_by_reset(room, generator):
    reply_id = room.send(f"[[sandbox: drop_after=3 times=1]] {PROMPT}", stream=True)
    stream = follow(room, reply_id)
    room.generate(generator, reply_id)
    assert room.row(reply_id).failures == 1
    received = []
    while names(received).count("delta") < 3:
        received.append(next(stream))
    room.sql("UPDATE messages SET not_before = NULL WHERE role = 'model'")
    room.generate(generator, reply_id)
    received += list(stream)
    assert "reset" in names(received)
    assert text_of(received) == room.read(reply_id).text == SAID


def test_a_reply_blocked_after_some_pieces_takes_them_back(room, generator):
    reply_id = room.send('[[sandbox: finish=SAFETY say="One two three four"]]', stream=True)
    stream = follow(room, reply_id)
    room.generate(generator, reply_id)
    events = list(stream)
    assert names(events)[-1] == "failed"
    assert text_of(events) == ""
    assert room.read(reply_id).text is None


def test_a_follower_that_goes_away_stops_nothing(room, generator):
    reply_id = room.send(PROMPT, stream=True)
    stream = follow(room, reply_id)
    next(stream)
    stream.close()
    room.generate(generator, reply_id)
    assert room.read(reply_id).text == SAID


def test_a_drain_sends_followers_to_another_process(room):
    reply_id = room.send(PROMPT, stream=True)
    stream = follow(room, reply_id)
    next(stream)
    leaving = [True]
    draining.watch(lambda: leaving[0])
    try:
        assert names(list(stream)) == ["reconnect"]
    finally:
        leaving[0] = False


def test_nonsense_as_last_event_id_begins_from_the_start(room, generator):
    reply_id = room.send(PROMPT, stream=True)
    room.generate(generator, reply_id)
    for nonsense in ("x", "1:", ":1", "-1:5", "1:2:3", "9" * 50):
        assert text_of(list(follow(room, reply_id, nonsense))) == SAID


def test_a_place_beyond_the_text_is_reset(room, generator):
    reply_id = room.send(PROMPT, stream=True)
    room.generate(generator, reply_id)
    events = list(follow(room, reply_id, "1:999"))
    assert names(events) == ["reset", "delta", "completed"]
    assert text_of(events, "something else") == SAID


@pytest.mark.parametrize("what", ["room", "account"])
def test_the_stream_of_a_reply_that_is_deleted_while_it_is_written_just_ends(room, make_generator, gemini, what):
    reply_id = room.send("[[sandbox: hang]]", stream=True)
    stream = follow(room, reply_id)
    thread = room.generate_meanwhile(make_generator(lease_seconds=1), reply_id)
    gemini.wait_for(in_flight_at_least=1)
    room.person.delete(room.path if what == "room" else "/user/me")
    assert "completed" not in names(list(stream))
    thread.join()


class Clock:
    """Seconds that pass as told, in steps of what is read of a silent stream."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += streaming.SLICE_SECONDS
        return self.now


def silent_follower(load, **options):
    """A follower of a reply of which nothing comes, on a clock of its own."""
    client = redis.Redis.from_url("redis://127.0.0.1:1")  # nobody there: every read ends at once
    return Follower(load, None, client=client, leaving=lambda: False, wait=lambda _: None, monotonic=Clock(), **options)


def test_a_comment_comes_every_fifteen_seconds_while_nothing_happens(room):
    reply = room.row(room.send(PROMPT))
    follower = silent_follower(lambda: reply)
    events, clock = follower.follow(), follower.monotonic
    assert next(events).name == "status"
    said = []
    for _ in range(3):
        assert next(events) is None
        said.append(clock.now)
    assert [15 <= later - earlier < 20 for earlier, later in pairwise(said)] == [True, True]


def test_the_events_end_when_the_client_has_hung_up(room):
    reply = room.row(room.send(PROMPT))
    hung_up = iter([False, True])
    events = list(silent_follower(lambda: reply, hung_up=lambda: next(hung_up)).follow())
    assert [event.name for event in events if event] == ["status"]


def test_the_stream_ends_with_the_session_behind_it(app, room, make_app):
    reply_id = room.send(PROMPT)
    room.person.client = make_app(redis_url="redis://127.0.0.1:1").test_client()  # it looks at the row all the time
    stream = follow(room, reply_id)
    next(stream)
    assert room.person.post("/auth/logout").status_code == 204
    assert list(stream) == []
    app.extensions["celery"].set_default()


def test_strangers_and_unknown_replies_are_404(room, make_user):
    reply_id = room.send(PROMPT)
    assert make_user().get(f"{room.path}/messages/{reply_id}/stream").status_code == 404
    assert room.person.get(f"{room.path}/messages/{room.person.id}/stream").status_code == 404


def test_a_user_may_follow_only_so_many_at_once(app, make_app, make_user):
    other = make_app(streams_per_user=2)
    person = make_user()
    person.client = other.test_client()
    path = person.make_chatroom()
    reply = person.post(f"{path}/message", json={"text": "Hi"}).json["reply"]["id"]
    opened = [person.get(f"{path}/messages/{reply}/stream") for _ in range(3)]
    assert [response.status_code for response in opened] == [200, 200, 429]
    assert opened[-1].json["code"] == "too_many_streams"
    assert opened[-1].headers["Retry-After"]
    opened[0].close()
    assert person.get(f"{path}/messages/{reply}/stream").status_code == 200
    app.extensions["celery"].set_default()


def test_a_process_follows_only_so_many_at_once(app, make_app, make_user):
    other = make_app(streams_per_process=1)
    person = make_user()
    person.client = other.test_client()
    path = person.make_chatroom()
    reply = person.post(f"{path}/message", json={"text": "Hi"}).json["reply"]["id"]
    opened = [person.get(f"{path}/messages/{reply}/stream") for _ in range(2)]
    assert [response.status_code for response in opened] == [200, 503]
    opened[0].close()
    app.extensions["celery"].set_default()


def test_a_reply_completes_and_is_followed_while_redis_dies(
    app: Flask, make_app: Callable[..., Flask], make_user: Callable[..., Any], make_generator_for: Any, gemini: Any
):
    with valkey_server(append_only=False) as own:
        other = make_app(redis_url=own.url)
        person = make_user()
        person.client = other.test_client()
        room = make_generator_for(other, person)
        reply_id = room.send(f"[[sandbox: hang_after=3]] {PROMPT}", stream=True)
        stream = follow(room, reply_id)
        thread = room.generate_meanwhile(room.generator, reply_id)
        received = []
        while names(received).count("delta") < 3:
            received.append(next(stream))
        own.kill()
        gemini.reset()
        thread.join()
        received += list(stream)
        assert text_of(received) == room.read(reply_id).text == SAID
    app.extensions["celery"].set_default()


def test_pieces_before_an_end_are_the_part_that_counts(room):
    with room.app.app_context():
        reply_id = room.send(PROMPT, stream=True)
        publisher = reply_events.Publisher(reply_id, 1)
        publisher.pass_on("Before ")
        end = reply_events.publish(reply_id, reply_events.Entry(1, status=Status.CANCELED))
        publisher.pass_on("after")
        assert reply_events.pieces_until(reply_id, end, 1) == "Before "
