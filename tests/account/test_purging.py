"""Deleted data is gone for everybody at once, and its rows are purged in batches, whatever happens in between."""

import json
import re
import threading
from itertools import count as numbers
from itertools import pairwise

import psycopg2
import pytest
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import text

from app.account import export, tasks
from app.account.tasks import purge, purge_account, purge_chatroom
from app.chatrooms.models import Context
from app.chatrooms.service import PURGE
from app.core.broker import CHORES
from app.core.db import db
from app.schedule import beat_schedule
from app.streaming.events import Publisher
from app.streaming.events import purge as purge_stream
from bench.large import explained
from tests.conftest import purge_all
from tests.queues import waiting_tasks
from tests.web_process import ROOT

GONE = ("users", "chatrooms", "messages", "auth_sessions", "refresh_rotations", "idempotency_keys", "pro_grants")


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(tasks, "BATCH", 3)


@pytest.fixture
def quiet_app(app, make_app, make_redis_url):
    """The application without a worker, where more than five prompts are sent a day."""
    yield make_app(redis_url=make_redis_url(), basic_daily_prompts=100)
    app.extensions["celery"].set_default()


@pytest.fixture
def quiet(quiet_app, make_user):
    """Make a user whose tasks stay in the queue."""

    def make():
        person = make_user()
        person.client = quiet_app.test_client()
        return person

    return make


def fill(person, *, rooms=3, prompts=4):
    """Make rooms with prompts, each under its own Idempotency-Key. Returns the rooms' paths."""
    paths, keys = [person.make_chatroom() for _ in range(rooms)], numbers()
    for path in paths:
        for _ in range(prompts):
            key = {"Idempotency-Key": f"{path}{next(keys)}"}
            assert person.post(f"{path}/message", json={"text": "Hello"}, headers=key).status_code == 202
    return paths


def rows(app, *tables):
    with app.app_context():
        return {table: db.session.scalar(text(f"SELECT count(*) FROM {table}")) for table in tables}


def test_an_account_is_deleted_in_batches_and_its_charges_stay(quiet_app, quiet, small_batches):
    person, other = quiet(), quiet()
    fill(person, prompts=7)
    kept = fill(other, rooms=1, prompts=2)
    before = rows(quiet_app, *GONE)
    assert person.delete("/user/me").status_code == 204
    assert rows(quiet_app, *GONE) == before
    with quiet_app.app_context():
        left = [before["messages"]]
        while purge_account() or purge_chatroom():
            left += rows(quiet_app, "messages").values()
    assert max(one - next_one for one, next_one in pairwise(left)) <= 2 * 3  # unfinished replies, then newest messages
    assert rows(quiet_app, "users", "chatrooms", "messages") == {"users": 1, "chatrooms": 1, "messages": 4}
    assert rows(quiet_app, "auth_sessions", "idempotency_keys") == {"auth_sessions": 1, "idempotency_keys": 2}
    assert rows(quiet_app, "prompt_charges") == {"prompt_charges": 23}
    assert other.get(kept[0]).status_code == 200


@pytest.fixture
def odd_plans(quiet_app):
    """Make PostgreSQL look up a batch's rows again for each row of the table, as other statistics may make it do."""
    with quiet_app.app_context():
        for way in ("hashjoin", "mergejoin", "hashagg", "sort", "material"):
            db.session.execute(text(f"SET enable_{way} = off"))  # on the connection that the pool gives out first
    yield
    with quiet_app.app_context():
        db.session.execute(text("RESET ALL"))


def test_security_events_and_keys_of_an_account_are_deleted_in_batches_too(quiet_app, quiet, small_batches, odd_plans):
    """One statement would not delete millions of security events in time, and would never reach the next account."""
    person, other = quiet(), quiet()
    eight = "FROM generate_series(1, 8)"
    event = "gen_random_uuid(), CAST(:user AS uuid), 'api_key_created', now()"
    key = "gen_random_uuid(), CAST(:user AS uuid), 'A key', 'chat:read', 'gbk_', gen_random_uuid(), now()"
    with quiet_app.app_context():
        for statement in (
            f"INSERT INTO security_events (id, user_id, type, created_at) SELECT {event} {eight}",
            f"INSERT INTO api_keys (id, user_id, name, scope, prefix, key_hash, created_at) SELECT {key} {eight}",
        ):
            db.session.execute(text(statement), {"user": person.id})
        db.session.commit()
    for somebody in (person, other):
        assert somebody.delete("/user/me").status_code == 204
    lost = []
    while sum(rows(quiet_app, "users").values()):
        before = rows(quiet_app, "security_events", "api_keys")
        with quiet_app.app_context():
            assert purge_account()
        lost.append(max(before[table] - left for table, left in rows(quiet_app, *before).items()))
    assert max(lost) == 3


def test_a_deleted_account_loses_number_name_and_password_before_its_row(quiet_app, quiet):
    person = quiet()
    person.patch("/user/me", json={"name": "Ada"})
    tokens = person.post("/auth/change-password", json={"new_password": "correct horse battery"}).json
    person.access_token = tokens["access_token"]
    known = text("SELECT mobile, name, password_hash FROM users")
    with quiet_app.app_context():
        assert all(db.session.execute(known).one())
        assert person.delete("/user/me").status_code == 204
        assert db.session.execute(known).one() == (None, None, None)


def test_the_documented_queries_count_what_is_still_to_be_deleted(quiet_app, quiet):
    page = (ROOT / "docs/operations.md").read_text()
    queries = re.findall(r"^SELECT .*;$", page.partition("What is still to be deleted:")[2], flags=re.MULTILINE)

    def told():
        with quiet_app.app_context():
            return [tuple(db.session.execute(text(query)).one()) for query in queries]

    person, other = quiet(), quiet()
    assert person.delete(*fill(person, rooms=1, prompts=2)).status_code == 204
    assert other.delete("/user/me").status_code == 204
    assert told() == [(1, 4), (1,)]
    purge_all(quiet_app)
    assert told() == [(0, None), (0,)]


def test_a_deleted_chatroom_is_gone_before_its_rows_are(quiet_app, quiet, small_batches):
    person = quiet()
    gone, kept = fill(person, rooms=2)
    message = person.get(gone).json["messages"][0]["id"]
    assert person.delete(gone).status_code == 204
    assert rows(quiet_app, "chatrooms") == {"chatrooms": 2}
    for path in (gone, f"{gone}/messages", f"{gone}/messages/{message}", f"{gone}/messages/{message}/stream"):
        assert person.get(path).status_code == 404
    for path in (f"{gone}/message", f"{gone}/messages/{message}/retry", f"{gone}/messages/{message}/cancel"):
        assert person.post(path, json={"text": "Hi"} if path.endswith("/message") else None).status_code == 404
    assert person.patch(gone, json={"title": "Mine"}).status_code == 404
    assert person.delete(gone).status_code == 404
    assert [f"/chatroom/{room['id']}" for room in person.get("/chatroom").json["items"]] == [kept]
    assert gone.removeprefix("/chatroom/") not in person.get("/user/me/export").text
    purge_all(quiet_app)
    assert rows(quiet_app, "chatrooms", "messages") == {"chatrooms": 1, "messages": 8}


def test_a_deletion_reads_no_more_rows_however_many_messages_there_are(quiet_app, quiet):
    person = quiet()
    room = person.make_chatroom()
    thousand = text(
        "INSERT INTO messages (id, chatroom_id, position, role, text, status, created_at, streamed, attempt, failures)"
        " SELECT gen_random_uuid(), :room, :first + n, 'user', repeat('Hello', 50), 'completed', now(), false, 0, 0"
        " FROM generate_series(0, 999) n"
    )
    with quiet_app.app_context():
        for first in range(0, 20_000, 1_000):  # each below the statement timeout
            db.session.execute(thousand, {"room": room.removeprefix("/chatroom/"), "first": first})
        db.session.execute(text("UPDATE chatrooms SET turns = 20000"))
        db.session.commit()
        engine = db.engine
    for path in (room, "/user/me"):
        with explained(engine) as plans:
            assert person.delete(path).status_code == 204
        assert sum(plan.buffers for plan in plans) < 150
    purge_all(quiet_app)
    assert rows(quiet_app, *GONE) == dict.fromkeys(GONE, 0)


def test_the_purge_of_an_account_does_not_wait_for_a_locked_charge(quiet_app, quiet, postgres):
    """Two purges that wait for each other's charges are a deadlock."""
    person = quiet()
    fill(person, rooms=1, prompts=4)
    assert person.delete("/user/me").status_code == 204
    owned = text("SELECT count(*) FROM prompt_charges WHERE user_id = :user")
    with psycopg2.connect(postgres.url) as other, other.cursor() as cursor:
        cursor.execute("SELECT FROM prompt_charges LIMIT 1 FOR UPDATE")
        with quiet_app.app_context():
            assert [purge_account() for _ in range(3)] == [True] * 3
            assert db.session.scalar(owned, {"user": person.id}) == 1
    other.close()
    purge_all(quiet_app)
    assert rows(quiet_app, "users", "prompt_charges") == {"users": 0, "prompt_charges": 4}
    with quiet_app.app_context():
        assert db.session.scalar(owned, {"user": person.id}) == 0


def test_purges_at_the_same_time_do_not_block_each_other(quiet_app, quiet, small_batches):
    people = [quiet() for _ in range(3)]
    for person in people:
        fill(person)
        person.delete("/user/me")
    failed = []

    def work():
        try:
            purge_all(quiet_app)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    purge_all(quiet_app)
    assert not failed
    assert rows(quiet_app, *GONE) == dict.fromkeys(GONE, 0)


@pytest.mark.parametrize(("table", "purge_some"), [("chatrooms", purge_chatroom), ("users", purge_account)])
def test_a_purge_skips_rows_that_another_purge_has_locked(quiet_app, quiet, postgres, table, purge_some):
    first = "updated_at" if table == "chatrooms" else "id"
    for person in (quiet(), quiet()):
        room = person.make_chatroom()
        assert person.delete(room if table == "chatrooms" else "/user/me").status_code == 204
    with psycopg2.connect(postgres.url) as other, other.cursor() as cursor:
        cursor.execute(f"SELECT FROM {table} ORDER BY {first} LIMIT 1 FOR UPDATE")
        with quiet_app.app_context():
            while purge_some():
                pass
        assert rows(quiet_app, table) == {table: 1}
    other.close()
    purge_all(quiet_app)
    assert rows(quiet_app, table) == {table: 0}


def lost(*_, **__):
    raise BrokerError("Redis is gone")


def test_an_interrupted_purge_resumes_and_one_with_more_to_do_queues_itself(
    quiet_app, quiet, small_batches, monkeypatch
):
    person = quiet()
    fill(person)
    person.delete("/user/me")
    client = quiet_app.extensions["redis"]
    assert (PURGE, ()) in waiting_tasks(client, CHORES)
    client.flushdb()  # the task is lost with its worker: beat asks again
    with monkeypatch.context() as patch, quiet_app.app_context():
        patch.setattr("app.account.tasks.RUN_SECONDS", 0)
        purge.run()
    assert waiting_tasks(client, CHORES) == [(PURGE, ())]
    with monkeypatch.context() as patch, quiet_app.app_context():
        patch.setattr("app.account.tasks.RUN_SECONDS", 0)
        patch.setattr("app.core.transactions.enqueue", lost)
        purge.run()  # beat asks again within a minute
    client.flushdb()
    with monkeypatch.context() as patch, quiet_app.app_context():
        patch.setattr("app.account.tasks.RUN_SECONDS", 60)
        purge.run()
    assert waiting_tasks(client, CHORES) == []
    assert rows(quiet_app, *GONE) == dict.fromkeys(GONE, 0)


def test_beat_asks_for_purges_every_minute(quiet_app):
    assert beat_schedule(quiet_app.extensions["settings"])[PURGE]["schedule"] == 60


def test_a_number_can_sign_up_again_before_its_old_rows_are_purged(quiet_app, quiet, make_user):
    person = quiet()
    fill(person, rooms=1, prompts=2)
    assert person.delete("/user/me").status_code == 204
    again = make_user(mobile=person.mobile)
    assert again.id != person.id
    assert again.get("/chatroom").json["items"] == []
    purge_all(quiet_app)
    assert again.get("/user/me").status_code == 200
    assert again.get("/user/usage").json["used"] == 2


def test_redis_keeps_no_text_of_deleted_rooms(room, runner):
    client, person = room.app.extensions["redis"], room.person
    person.patch(room.path, json={"title": "A secret title"})
    archived = person.make_chatroom("A secret archive")
    person.patch(archived, json={"archived": True})
    reply_id = room.send('[[sandbox: say="A secret reply"]]', stream=True)
    room.generate(runner, reply_id)
    for query in ("", "?archived=true"):
        person.get(f"/chatroom{query}")
    assert len(keys_with(client, "secret")) == 3
    for path in (archived, room.path):
        assert person.delete(path).status_code == 204
    purge_all(room.app)
    assert keys_with(client, "secret") == []
    person.make_chatroom("Another secret title")
    person.get("/chatroom")
    assert len(keys_with(client, "secret")) == 1
    assert person.delete("/user/me").status_code == 204
    purge_all(room.app)
    assert keys_with(client, "secret") == []


def keys_with(client, word):
    """Return the keys in Redis whose value contains the word."""
    read = {b"stream": client.xrange, b"string": client.get, b"list": lambda key: client.lrange(key, 0, -1)}
    known = [(key, client.type(key)) for key in client.scan_iter()]
    return [key for key, kind in known if kind in read and word in str(read[kind](key))]


@pytest.mark.parametrize("what", ["room", "account"])
def test_no_worker_begins_a_reply_of_a_deleted_room_or_account(room, runner, gemini, what):
    gemini.clear_requests()
    reply_id = room.send("Hello")
    room.person.delete(room.path if what == "room" else "/user/me")
    room.generate(runner, reply_id)
    assert gemini.requests() == []
    assert room.row(reply_id).attempt == 0


def test_a_late_piece_does_not_recreate_a_purged_stream(room):
    reply_id = room.send("Hello", stream=True)
    with room.app.app_context():
        publisher = Publisher(reply_id, 1, Context(1, 0))
        publisher.pass_on("One ")
        purge_stream([reply_id], unfinished_attempts={reply_id: 1})
        publisher.pass_on("secret")
    assert keys_with(room.app.extensions["redis"], "secret") == []


def test_an_export_under_way_ends_with_the_account(quiet_app, quiet, monkeypatch):
    monkeypatch.setattr(export, "ROOMS_AT_ONCE", 1)
    person = quiet()
    fill(person, rooms=2, prompts=1)
    pieces = person.get("/user/me/export", buffered=False).iter_encoded()
    head = next(pieces)
    assert person.delete("/user/me").status_code == 204
    assert json.loads(head + b"".join(pieces))["chatrooms"] == []
