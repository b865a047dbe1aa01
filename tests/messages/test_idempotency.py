"""The same request sent again counts as sent once."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

import psycopg2
import pytest
from sqlalchemy import event

from app.core.broker import GENERATIONS
from app.core.clock import utc_now
from app.core.db import db
from app.core.transactions import transaction
from app.generation import state
from app.messages.schemas import MessageOut
from app.messages.service import accept_prompt, wait_for_reply
from sandbox.stack.processes import wait_until
from tests.people import all_at_once
from tests.queues import waiting_tasks
from tests.rooms import retry

KEY = {"Idempotency-Key": "5f0c9e9a-7d3b"}


def post(room, text="Hello", headers=KEY, path=None):
    return room.person.post(f"{path or room.path}/message", json={"text": text}, headers=headers)


def test_the_same_key_and_body_give_the_first_answer_again(room):
    first, again = post(room), post(room)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json == first.json
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert room.used() == 1


def test_a_path_in_capitals_is_the_same_one(room):
    first = post(room)
    again = post(room, path=f"/chatroom/{room.path.rsplit('/', 1)[1].upper()}")
    assert (again.json, again.headers["Idempotent-Replayed"]) == (first.json, "true")


def test_a_trimmed_text_is_trimmed_in_the_repeated_answer_too(room):
    first, again = post(room, "  Hello\n"), post(room, "  Hello\n")
    assert first.json["message"]["text"] == "Hello"
    assert again.json == first.json


def test_twenty_copies_at_once_are_accepted_once_and_answered_alike(room):
    answers = all_at_once([lambda: post(room)] * 20)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 19
    assert room.used() == 1
    assert len(room.person.get(f"{room.path}/messages").json["items"]) == 2


def test_the_answer_stays_the_same_when_the_reply_has_come(room, runner):
    first = post(room)
    room.generate(runner, first.json["reply"]["id"])
    assert post(room).json == first.json


def test_an_answer_with_the_reply_is_repeated_with_it(user, worker):
    path = user.make_chatroom()
    headers = KEY | {"Prefer": "wait=10"}
    first = user.post(f"{path}/message", json={"text": "Hello"}, headers=headers)
    again = user.post(f"{path}/message", json={"text": "Hello"}, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json == first.json


def test_the_reply_in_one_answer_is_in_no_other_answer(user, worker, make_user):
    """It is neither under another key of the user, nor under the same key of another user."""
    path, other = user.make_chatroom(), make_user()
    senders = [(user, path, {"Idempotency-Key": "another"}), (other, other.make_chatroom(), KEY)]

    def send():
        return [who.post(f"{to}/message", json={"text": "Hi"}, headers=headers).json for who, to, headers in senders]

    first = send()
    waited = user.post(f"{path}/message", json={"text": "Hello"}, headers=KEY | {"Prefer": "wait=10"})
    assert waited.status_code == 200
    assert send() == first


def test_an_answer_with_a_failed_reply_is_repeated_with_it_after_a_retry(user, worker, gemini):
    path, headers = user.make_chatroom(), KEY | {"Prefer": "wait=10"}
    gemini.behave(status=400)
    first = user.post(f"{path}/message", json={"text": "Hello"}, headers=headers)
    assert first.json["reply"]["status"] == "failed"
    user.post(f"{path}/messages/{first.json['reply']['id']}/retry")
    again = user.post(f"{path}/message", json={"text": "Hello"}, headers=headers)
    assert (again.status_code, again.json) == (200, first.json)


def test_a_key_of_a_deleted_room_is_404_at_once(room):
    for number in range(3):
        post(room, headers={"Idempotency-Key": f"key-{number}"})
    assert room.person.delete(room.path).status_code == 204
    assert [post(room, headers={"Idempotency-Key": f"key-{number}"}).status_code for number in range(3)] == [404] * 3


def test_copies_that_come_while_the_first_waits_are_answered_as_the_first(user, worker):
    path = user.make_chatroom()

    def send(_):
        headers = KEY | {"Prefer": "wait=15"}
        return user.post(f"{path}/message", json={"text": "[[sandbox: delay=1]] Hello"}, headers=headers)

    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(send, range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 4
    assert user.get("/user/usage").json["used"] == 1


def test_a_copy_that_waits_on_is_answered_as_the_first(room, runner):
    """The first answer had a failed reply, which was retried before the copy looked."""
    user_id, room_id = UUID(room.person.id), UUID(room.path.rsplit("/", 1)[1])
    key = {"wait_seconds": 20, "idempotency_key": "a-key", "fingerprint": "the same"}

    def within(use_case, *args, **kwargs):
        with room.app.app_context():
            return use_case(user_id, *args, **kwargs, now=utc_now())

    first, copy = (within(accept_prompt, room_id, "[[sandbox: status=404]]", **key) for _ in range(2))
    room.generate(runner, first.reply.id)
    answer = within(wait_for_reply, first)
    assert answer.reply.status == "failed"
    room.sql("UPDATE messages SET text = 'Hello' WHERE role = 'user'")
    assert retry(room, first.reply.id).status_code == 202
    room.generate(runner, first.reply.id)
    answers = [within(wait_for_reply, copy), within(accept_prompt, room_id, "[[sandbox: status=404]]", **key)]
    assert [MessageOut().dump(one.reply) for one in answers] == [MessageOut().dump(answer.reply)] * 2


def test_a_copy_that_sees_the_end_after_the_first_was_answered_without_it_is_answered_as_the_first(room, runner):
    """Both time-outs were over, and the reply ended between the two looks at it."""
    user_id, room_id = UUID(room.person.id), UUID(room.path.rsplit("/", 1)[1])
    key = {"idempotency_key": "a-key", "fingerprint": "the same"}

    def send():
        return accept_prompt(user_id, room_id, "Hello", wait_seconds=1, **key, now=utc_now())

    with room.app.app_context():
        first, copy = send(), send()
        assert not wait_for_reply(user_id, first, now=utc_now()).reply.status.is_final
    room.generate(runner, first.reply.id)
    assert room.read(first.reply.id).status == "completed"
    with room.app.app_context():
        answers = [wait_for_reply(user_id, copy, now=utc_now()), send()]
        assert [MessageOut().dump(one.reply) for one in answers] == [MessageOut().dump(first.reply)] * 2


def test_every_answer_before_the_end_shows_the_reply_as_accepted_though_it_has_begun(room):
    user_id, room_id = UUID(room.person.id), UUID(room.path.rsplit("/", 1)[1])

    def send():
        return accept_prompt(
            user_id, room_id, "Hello", wait_seconds=1, idempotency_key="a-key", fingerprint="the same", now=utc_now()
        )

    with room.app.app_context():
        first, copy = send(), send()
        with transaction():
            assert state.claim(first.reply.id, lease=timedelta(seconds=60))
        answers = [wait_for_reply(user_id, accepted, now=utc_now()) for accepted in (first, copy)] + [send()]
        assert room.read(first.reply.id).status == "generating"
        assert [MessageOut().dump(answer.reply) for answer in answers] == [MessageOut().dump(first.reply)] * 3


def test_a_copy_waits_no_longer_than_the_first_request(room):
    first = post(room, headers=KEY | {"Prefer": "wait=1"})
    began = time.monotonic()
    again, unwaited = post(room, headers=KEY | {"Prefer": "wait=15"}), post(room)
    assert time.monotonic() - began < 15
    assert (first.status_code, again.status_code, unwaited.status_code) == (202, 202, 202)
    assert again.json == unwaited.json == first.json


def test_a_copy_does_not_wait_when_the_first_request_was_answered_before_its_time(room, runner, drain):
    """The first one's web process ended, and its time is not over yet."""
    drain()
    first = post(room, headers=KEY | {"Prefer": "wait=20"})
    room.generate(runner, first.json["reply"]["id"])
    again = post(room, headers=KEY | {"Prefer": "wait=20"})
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json == first.json


def test_a_copy_with_a_shorter_wait_does_not_keep_the_next_ones_from_waiting(room):
    user_id, room_id = UUID(room.person.id), UUID(room.path.rsplit("/", 1)[1])
    key = {"idempotency_key": "a-key", "fingerprint": "the same"}

    def send(seconds):
        return accept_prompt(user_id, room_id, "Hello", wait_seconds=seconds, **key, now=utc_now())

    with room.app.app_context():
        first, shorter = send(20), send(1)
        assert not wait_for_reply(user_id, shorter, now=utc_now()).reply.status.is_final
        assert send(20).waits_until == first.waits_until


@contextmanager
def room_deleted_before(room, words):
    """Within the block, delete the room as somebody else, just before the first statement with these words."""
    deleted = []

    def delete_room(_connection, _cursor, statement, *_):
        if words in statement and not deleted:
            deleted.append(True)
            with psycopg2.connect(str(engine.url.set(drivername="postgresql").render_as_string(False))) as other:
                other.cursor().execute("DELETE FROM chatrooms")

    with room.app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", delete_room)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", delete_room)
    assert deleted


def test_a_copy_that_comes_while_its_room_is_deleted_finds_no_room(room):
    post(room)
    with room_deleted_before(room, "FROM messages"):
        answer = post(room)
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")


@pytest.mark.parametrize("headers", [KEY, {}])
def test_a_prompt_that_comes_while_its_room_is_deleted_finds_no_room_and_spends_nothing(room, headers):
    with room_deleted_before(room, "INSERT INTO messages"):
        answer = post(room, headers=headers)
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")
    assert room.used() == 0


def test_a_wait_is_answered_even_when_its_room_and_key_are_purged_meanwhile(room, runner, postgres):
    room.runner = runner
    with room.app.app_context():
        engine = db.engine
    with psycopg2.connect(postgres.url) as purge, purge.cursor() as cursor, ThreadPoolExecutor(2) as threads:

        def purge_first(_connection, _cursor, statement, *_):
            if statement.startswith("UPDATE idempotency_keys"):
                cursor.execute("DELETE FROM idempotency_keys")
                threads.submit(purge.commit)

        event.listen(engine, "before_cursor_execute", purge_first)
        try:
            waiting = threads.submit(post, room, headers=KEY | {"Prefer": "wait=10"})
            threads.submit(generate_next, room).result()
            answer = waiting.result()
        finally:
            event.remove(engine, "before_cursor_execute", purge_first)
        assert cursor.rowcount == 1
    purge.close()
    assert (answer.status_code, answer.json["reply"]["status"]) == (200, "completed")


def test_an_end_that_was_noted_is_answered_though_the_usage_cannot_be_read_any_more(room, runner, postgres):
    """PostgreSQL ends the connection in between."""
    user_id, room_id = UUID(room.person.id), UUID(room.path.rsplit("/", 1)[1])
    key = {"wait_seconds": 20, "idempotency_key": "a-key", "fingerprint": "the same"}

    def send():
        return accept_prompt(user_id, room_id, "[[sandbox: status=404]]", **key, now=utc_now())

    def end_connections(_connection, _cursor, statement, *_):
        if "FROM prompt_charges" in statement:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            with psycopg2.connect(postgres.url) as other:
                other.cursor().execute(f"{others} AND pid <> pg_backend_pid()")

    with room.app.app_context():
        engine, first = db.engine, send()
    room.generate(runner, first.reply.id)
    with room.app.app_context():
        event.listen(engine, "before_cursor_execute", end_connections)
        try:
            answer = wait_for_reply(user_id, first, now=utc_now())
        finally:
            event.remove(engine, "before_cursor_execute", end_connections)
        assert send().reply.status == answer.reply.status == "failed"


def generate_next(room):
    queue = room.app.extensions["redis"]
    assert wait_until(lambda: bool(waiting_tasks(queue, GENERATIONS)), seconds=10)
    ((_, (reply_id,)),) = waiting_tasks(queue, GENERATIONS)
    room.generate(room.runner, UUID(reply_id))


def test_another_body_or_room_under_the_same_key_is_refused(room):
    post(room)
    other = room.person.make_chatroom()
    for answer in (post(room, "Other"), post(room, path=other)):
        assert (answer.status_code, answer.json["code"]) == (422, "idempotency_key_reused")
    assert room.used() == 1


def test_the_same_key_of_two_users_is_two_requests(room, make_user):
    post(room)
    somebody = make_user()
    answer = somebody.post(f"{somebody.make_chatroom()}/message", json={"text": "Mine"}, headers=KEY)
    assert answer.status_code == 202


def test_refused_requests_are_not_remembered(room):
    assert post(room, "").status_code == 422
    assert post(room).status_code == 202


def test_a_key_is_forgotten_after_a_day(room):
    first = post(room)
    room.sql("UPDATE idempotency_keys SET created_at = created_at - interval '23 hours'")
    assert post(room).json == first.json
    room.sql("UPDATE idempotency_keys SET created_at = created_at - interval '1 hour'")
    assert post(room).json["reply"]["id"] != first.json["reply"]["id"]


def test_a_known_key_is_answered_when_the_day_is_spent(room):
    first = post(room)
    for _ in range(4):
        post(room, headers={})
    assert post(room).json == first.json


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "é", "a\tb"])
def test_an_invalid_key_is_a_validation_error(room, key):
    answer = post(room, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json["code"]) == (422, "validation_error")
