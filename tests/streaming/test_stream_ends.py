"""When a stream ends before its reply does, and how many may be open."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import SimpleNamespace

import pytest
import redis
from sqlalchemy.exc import OperationalError

from app.chatrooms.models import Context, Status
from app.core.admission import Slot
from app.core.db import DatabaseUnavailable
from app.core.redis import redis_client
from app.streaming import events, following
from app.streaming.following import Follower
from sandbox.stack.processes import wait_until
from tests.conftest import purge_all
from tests.event_streams import events_of, follow, names

SAID = "One two three 😀 vier fünf."
PROMPT = f'[[sandbox: say="{SAID}"]]'


def test_a_follower_that_goes_away_does_not_stop_the_reply(room, runner):
    reply_id = room.send(PROMPT, stream=True)
    stream = follow(room, reply_id)
    next(stream)
    stream.close()
    room.generate(runner, reply_id)
    assert room.read(reply_id).text == SAID


def test_a_drain_sends_followers_to_another_process(room, drain):
    reply_id = room.send(PROMPT, stream=True)
    stream = follow(room, reply_id)
    next(stream)
    drain()
    assert names(list(stream)) == ["reconnect"]


@pytest.mark.parametrize("what", ["room", "account"])
def test_the_stream_of_a_reply_that_is_deleted_while_it_is_written_just_ends(room, make_runner, gemini, what):
    reply_id = room.send("[[sandbox: hang]]", stream=True)
    stream = follow(room, reply_id)
    thread = room.generate_meanwhile(make_runner(lease_seconds=60), reply_id)
    gemini.wait_for(in_flight_at_least=1)
    room.person.delete(room.path if what == "room" else "/user/me")
    purge_all(room.app)
    assert "completed" not in names(list(stream))
    thread.join()


def test_a_purge_is_noticed_by_those_who_wait_for_the_next_entry(room):
    reply_id = room.send("Hello", stream=True)
    with room.app.app_context():
        client = redis_client(blocking=True)
        since = events.publish(reply_id, events.Entry(1, status=Status.GENERATING))
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(events.read, client, reply_id, since, seconds=5)
            assert wait_until(lambda: int(client.info("clients")["blocked_clients"]) > 0, seconds=4)
            events.purge([reply_id], unfinished_attempts={reply_id: 1})
        assert [entry.status for entry in waiting.result()[1]] == [Status.CANCELED]


class Clock:
    """A clock on which each look takes as long as one read of a silent stream."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += following.SLICE_SECONDS
        return self.now

    def sleep(self, _seconds: float) -> None:
        """Go on at once."""


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(following, "time", clock)
    return clock


def silent_follower(reply, load, **options):
    """Make a follower of a reply without events. Use it with `clock`."""
    client = redis.Redis.from_url("redis://127.0.0.1:1")  # nobody there: every read ends at once
    return Follower(reply, load, None, client=client, **options)


def test_a_comment_comes_every_fifteen_seconds_while_nothing_happens(room, clock):
    reply = room.row(room.send(PROMPT))
    events = silent_follower(reply, lambda: reply).follow()
    assert next(events).name == "status"
    said = []
    for _ in range(3):
        assert next(events) is None
        said.append(clock.now)
    assert [15 <= later - earlier < 20 for earlier, later in pairwise(said)] == [True, True]


def test_a_follower_without_redis_ends_when_its_time_is_over(room, monkeypatch):
    reply, waited = room.row(room.send(PROMPT)), []
    own_time = SimpleNamespace(sleep=waited.append, monotonic=lambda: sum(waited))
    monkeypatch.setattr(following, "time", own_time)
    events = list(silent_follower(reply, lambda: reply, until=2.5).follow())
    assert [event.name for event in events if event] == ["status"]
    assert sum(waited) == 2.5


def test_the_events_end_when_the_client_has_hung_up(room, clock):
    reply = room.row(room.send(PROMPT))
    has_hung_up = iter([False, True])
    events = list(silent_follower(reply, lambda: reply, has_hung_up=lambda: next(has_hung_up)).follow())
    assert [event.name for event in events if event] == ["status"]


def test_a_look_that_postgresql_does_not_answer_does_not_end_the_stream(room, clock):
    reply = room.row(room.send(PROMPT))
    done = SimpleNamespace(id=reply.id, attempt=1, text=SAID, status=Status.COMPLETED, context=Context(1, 0))
    looks = iter([OperationalError("SELECT", {}, Exception("gone")), done])

    def load():
        look = next(looks)
        if isinstance(look, Exception):
            raise look
        return look

    events = list(silent_follower(reply, load).follow())
    assert [event.name for event in events if event] == ["status", "context", "delta", "completed"]


def test_a_follower_logs_once_that_postgresql_is_away_until_it_answers(room, clock, caplog):
    reply = room.row(room.send(PROMPT))
    done = SimpleNamespace(id=reply.id, attempt=1, text=SAID, status=Status.COMPLETED, context=None)
    gone = DatabaseUnavailable("SELECT", {}, Exception("gone"))
    looks = iter([gone, gone, gone, reply, gone, gone, done])

    def load():
        look = next(looks)
        if isinstance(look, Exception):
            raise look
        return look

    assert [event.name for event in silent_follower(reply, load).follow() if event][-1] == "completed"
    assert caplog.text.count("a follower will read its reply again") == 2


def test_without_redis_no_slot_is_counted(app):
    with app.app_context():
        slot = Slot("streams:somebody")
    here, nowhere = slot.client, redis.Redis.from_url("redis://127.0.0.1:1")
    for client in (nowhere, here, nowhere, here):
        slot.client = client
        assert slot.renew() == (client is here)
    slot.client = nowhere
    slot.release()


def test_a_stream_begins_with_one_look_at_the_reply(user, statements):
    """A second one could fail, for want of a connection, after the answer has begun."""
    room = user.make_chatroom()
    reply = user.post(f"{room}/message", json={"text": "Hello"}).json["reply"]
    statements.clear()
    with user.get(f"{room}/messages/{reply['id']}/stream") as response:
        assert next(events_of(response.response)).name == "status"
    assert len(statements) == 1, statements


def test_the_stream_ends_with_its_session(app, room, make_app):
    reply_id = room.send(PROMPT)
    room.person.client = make_app(redis_url="redis://127.0.0.1:1").test_client()  # so it looks at the row all the time
    stream = follow(room, reply_id)
    next(stream)
    assert room.person.post("/auth/logout").status_code == 204
    assert list(stream) == []


def test_strangers_and_unknown_replies_are_404(room, make_user):
    reply_id = room.send(PROMPT)
    assert make_user().get(f"{room.path}/messages/{reply_id}/stream").status_code == 404
    assert room.person.get(f"{room.path}/messages/{room.person.id}/stream").status_code == 404


def test_a_user_may_have_only_so_many_streams_at_once(app, make_app, make_user):
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


def test_a_process_takes_only_so_many_streams_and_refuses_more_without_a_slot(
    app, make_app, make_user, capsys, monkeypatch
):
    renewed, renew = [], Slot.renew
    monkeypatch.setattr(Slot, "renew", lambda slot: renewed.append(slot) or renew(slot))
    other = make_app(streams_per_process=1)
    person = make_user()
    person.client = other.test_client()
    path = person.make_chatroom()
    reply = person.post(f"{path}/message", json={"text": "Hi"}).json["reply"]["id"]
    opened = [person.get(f"{path}/messages/{reply}/stream") for _ in range(2)]
    assert [response.status_code for response in opened] == [200, 503]
    assert len(renewed) == 1  # Redis, which may be silent, is not asked for the refused one
    assert "STREAMS_PER_PROCESS or WEB_THREADS allows only 1" in capsys.readouterr().err
    opened[0].close()
