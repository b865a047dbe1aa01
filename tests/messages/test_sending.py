"""Sending a prompt and reading a room, end to end: a real worker answers."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from app.core.broker import GENERATIONS
from app.core.clock import next_midnight, seconds_until, utc_now
from app.core.db import db
from app.messages import views
from app.messages.views import preferred_wait
from tests.queues import waiting_tasks


def test_a_prompt_is_accepted_at_once_and_its_location_leads_to_the_reply(user, worker):
    path = user.make_chatroom()
    response = user.post(f"{path}/message", json={"text": "  Hello  "})
    assert response.status_code == 202
    prompt, reply = response.json["message"], response.json["reply"]
    assert (prompt["role"], prompt["text"], prompt["status"]) == ("user", "Hello", "completed")
    assert (reply["role"], reply["text"], reply["status"]) == ("model", None, "queued")
    assert reply["in_reply_to"] == prompt["id"]
    assert response.headers["Location"] == f"{path}/messages/{reply['id']}"
    deadline = time.monotonic() + 10
    while (read := user.get(response.headers["Location"]).json)["status"] != "completed":
        assert time.monotonic() < deadline
    assert "Hello" in read["text"]


def test_a_client_has_its_answer_before_the_task_is_queued(user, redis_db):
    path = user.make_chatroom()
    answer = user.post(f"{path}/message", json={"text": "Hello"}, buffered=False)
    assert answer.status_code == 202
    assert waiting_tasks(redis_db, GENERATIONS) == []
    answer.close()
    assert waiting_tasks(redis_db, GENERATIONS) == [("messages.generate_reply", (answer.json["reply"]["id"],))]


def test_the_task_after_an_answer_is_queued_once_with_the_requests_id_and_trace(user, redis_db):
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    headers = {"X-Request-ID": "this-request", "traceparent": trace}
    answer = user.post(f"{user.make_chatroom()}/message", json={"text": "Hello"}, headers=headers, buffered=False)
    user.get("/user/me")  # another request on the same thread
    for _ in range(2):
        answer.close()
    (task,) = [json.loads(message) for message in redis_db.lrange(GENERATIONS, 0, -1)]
    assert (task["headers"]["request_id"], task["headers"]["traceparent"]) == ("this-request", trace)


def test_a_reply_is_queued_even_after_a_defect_behind_the_commit(app, user, redis_db, monkeypatch):
    path = user.make_chatroom()
    app.config["PROPAGATE_EXCEPTIONS"] = False
    try:
        with monkeypatch.context() as patch:
            patch.setattr(views.service, "wait_for_reply", lambda *_, **__: 1 / 0)
            assert user.post(f"{path}/message", json={"text": "Hello"}).status_code == 500
    finally:
        app.config["PROPAGATE_EXCEPTIONS"] = None
    reply_id = user.get(f"{path}/messages").json["items"][0]["id"]
    assert waiting_tasks(redis_db, GENERATIONS) == [("messages.generate_reply", (reply_id,))]


def test_a_wait_brings_the_reply_in_the_same_answer(user, worker):
    path = user.make_chatroom()
    response = user.post(f"{path}/message", json={"text": "Hello"}, headers={"Prefer": "wait=10"})
    assert response.status_code == 200
    assert response.headers["Preference-Applied"] == "wait=10"
    assert response.json["reply"]["status"] == "completed"
    second = user.post(f"{path}/message", json={"text": "What did I say?"}, headers={"Prefer": "wait=10"})
    assert "“Hello”" in second.json["reply"]["text"]


def test_a_wait_brings_a_failed_reply_too(user, worker):
    path = user.make_chatroom()
    response = user.post(f"{path}/message", json={"text": "[[sandbox: block]]"}, headers={"Prefer": "wait=10"})
    assert (response.status_code, response.json["reply"]["status"]) == (200, "failed")
    error = response.json["reply"]["error"]
    assert error["code"] == "blocked_by_safety"
    assert error["message"]


def test_a_wait_that_is_not_long_enough_answers_202(user, worker, gemini):
    gemini.clear_requests()
    path = user.make_chatroom()
    response = user.post(
        f"{path}/message", json={"text": "[[sandbox: hang]]"}, headers={"Prefer": "respond-async, wait=4"}
    )
    assert gemini.stats() == {"calls": 1, "in_flight": 1, "max_in_flight": 1}  # the first attempt still goes on
    assert (response.status_code, response.json["reply"]["status"]) == (202, "generating")
    assert "Preference-Applied" not in response.headers


def test_ratelimit_reset_counts_from_the_end_of_a_wait(user, worker, gemini):
    gemini.behave(delay=2)
    path = user.make_chatroom()
    end = next_midnight(utc_now())
    before = seconds_until(end, utc_now())
    response = user.post(f"{path}/message", json={"text": "Hello"}, headers={"Prefer": "wait=10"})
    assert response.status_code == 200
    assert before - int(response.headers["RateLimit-Reset"]) >= 2 or utc_now() >= end


def test_a_wait_past_midnight_shows_the_quota_of_the_new_day(user, worker, monkeypatch):
    path, tomorrow = user.make_chatroom(), next_midnight(utc_now()) + timedelta(seconds=5)
    monkeypatch.setattr("app.messages.service.utc_now", lambda: tomorrow)
    response = user.post(f"{path}/message", json={"text": "Hello"}, headers={"Prefer": "wait=10"})
    assert (response.status_code, response.headers["RateLimit-Remaining"]) == (200, "5")
    assert int(response.headers["RateLimit-Reset"]) == 86_395


def test_a_wait_for_a_reply_that_fails_shows_the_quota_after_the_refund(user, worker):
    path = user.make_chatroom()
    response = user.post(f"{path}/message", json={"text": "[[sandbox: status=404]]"}, headers={"Prefer": "wait=10"})
    assert response.json["reply"]["error"]["code"] == "model_rejected"
    assert response.headers["RateLimit-Remaining"] == "5"


def test_a_process_that_holds_its_maximum_of_requests_answers_at_once(make_app, user, served_environment, worker):
    own = make_app(streams_per_process=1, redis_url=served_environment["REDIS_URL"])
    user.client = own.test_client()
    path = user.make_chatroom()
    reply = user.post(f"{path}/message", json={"text": "[[sandbox: hang]]"}).json["reply"]["id"]
    stream = user.get(f"{path}/messages/{reply}/stream")
    begun = time.monotonic()
    response = user.post(f"{path}/message", json={"text": "Hello"}, headers={"Prefer": "wait=20"})
    stream.close()
    assert response.status_code == 202
    assert time.monotonic() - begun < 10


def test_a_wait_that_loses_postgresql_answers_202_for_the_accepted_prompt(room):
    with room.app.app_context():
        engine = db.engine
    charged = []

    def gone(_connection, _cursor, statement, *_):
        if charged and "FROM messages" in statement:
            raise OperationalError(statement, {}, Exception("gone"))
        charged.extend([True] if "INSERT INTO prompt_charges" in statement else [])

    event.listen(engine, "before_cursor_execute", gone)
    try:
        response = room.person.post(f"{room.path}/message", json={"text": "Hi"}, headers={"Prefer": "wait=1"})
    finally:
        event.remove(engine, "before_cursor_execute", gone)
    assert charged
    assert (response.status_code, response.json["reply"]["status"]) == (202, "queued")


def test_a_wait_goes_on_when_postgresql_cuts_its_connection(room):
    with room.app.app_context():
        engine = db.engine
    here, cut = threading.current_thread(), threading.Event()

    def cut_once(_connection, _cursor, statement, parameters, *_):
        is_look = threading.current_thread() is not here and "FROM messages" in statement and not cut.is_set()
        if not is_look:
            return statement, parameters
        cut.set()
        return "SELECT pg_terminate_backend(pg_backend_pid())", {}

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            room.person.post, f"{room.path}/message", json={"text": "Hi"}, headers={"Prefer": "wait=10"}
        )
        while not (items := room.person.get(f"{room.path}/messages").json["items"]):
            pass
        event.listen(engine, "before_cursor_execute", cut_once, retval=True)
        try:
            assert room.person.post(f"{room.path}/messages/{items[0]['id']}/cancel").status_code == 200
            response = waiting.result()
        finally:
            event.remove(engine, "before_cursor_execute", cut_once)
    assert cut.is_set()
    assert (response.status_code, response.json["reply"]["status"]) == (200, "canceled")


def test_a_wait_ends_when_the_process_drains(room, drain):
    begun = time.monotonic()
    drain()
    response = room.person.post(f"{room.path}/message", json={"text": "Hi"}, headers={"Prefer": "wait=20"})
    assert response.status_code == 202
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=5", 5),
        ("WAIT=5", 5),
        ('wait="7"', 7),
        ("respond-async, wait=5;foo=bar", 5),
        ("wait=5, wait=1", 5),
        ('note="a, wait=9", wait=5', 5),
        ('note="a, wait=9"', 0),
        ("wait=99999999999999999999", 20),
    ],
)
def test_the_first_wait_of_a_preference_counts(prefer, seconds):
    assert preferred_wait(prefer) == seconds


@pytest.mark.parametrize(("verb", "seconds"), [("cancel", 4), ("delete", 1)])
def test_a_wait_ends_well_when_the_reply_is_canceled_or_deleted(room, verb, seconds):
    prefer = {"Prefer": f"wait={seconds}"}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(room.person.post, f"{room.path}/message", json={"text": "Hi"}, headers=prefer)
        while not (items := room.person.get(f"{room.path}/messages").json["items"]):
            pass
        if verb == "cancel":
            room.sql("UPDATE messages SET status = 'generating', lease_expires_at = now() WHERE role = 'model'")
            assert room.person.post(f"{room.path}/messages/{items[0]['id']}/cancel").status_code == 200
            assert (waiting.result().status_code, waiting.result().json["reply"]["status"]) == (200, "canceled")
        else:
            assert room.person.delete(room.path).status_code == 204
            assert (waiting.result().status_code, waiting.result().json["reply"]["status"]) == (202, "queued")


@pytest.mark.parametrize("prefer", ["wait=x", "wait=-1", "wait", "wait=0", "nonsense", "=,=;;", "wait=1e9"])
def test_an_invalid_preference_is_ignored(room, prefer):
    response = room.person.post(f"{room.path}/message", json={"text": "Hi"}, headers={"Prefer": prefer})
    assert response.status_code == 202


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": ""},
        {"text": " \n\t "},
        {"text": None},
        {"text": 5},
        {"text": ["a"]},
        {"text": {"a": 1}},
        {"text": "x" * 8001},
        {"text": "a\x00b"},
        {"text": "\ud800"},
        {"text": "Hi", "stream": "yes"},
        {"text": "Hi", "stream": 1},
        {"text": "Hi", "stream": None},
        {"text": "Hi", "unknown": 1},
    ],
)
def test_a_bad_prompt_is_a_clear_error_and_nothing_is_stored(room, body):
    response = room.person.post(f"{room.path}/message", json=body)
    assert (response.status_code, response.json["code"]) == (422, "validation_error")
    assert response.json["errors"]
    assert room.person.get(f"{room.path}/messages").json["items"] == []


def test_eight_thousand_characters_are_accepted_in_any_script(room):
    text = "𝒳é" * 4000
    assert room.person.post(f"{room.path}/message", json={"text": text}).json["message"]["text"] == text


def test_a_stranger_finds_no_room_and_no_message(room, make_user):
    reply_id = room.send("Private")
    stranger = make_user()
    for answer in (
        stranger.get(room.path),
        stranger.get(f"{room.path}/messages"),
        stranger.get(f"{room.path}/messages/{reply_id}"),
        stranger.post(f"{room.path}/message", json={"text": "Hi"}),
        stranger.get(f"{stranger.make_chatroom()}/messages/{reply_id}"),
    ):
        assert (answer.status_code, answer.json["code"]) == (404, "not_found")


def test_a_room_shows_its_latest_fifty_messages_oldest_first(room):
    room.sql(
        "INSERT INTO pro_grants (id, user_id, reason, created_at) VALUES (gen_random_uuid(), :id, 'A test', now())",
        id=room.person.id,
    )
    for index in range(30):
        room.send(f"Prompt {index}")
    page = room.person.get(room.path).json
    assert len(page["messages"]) == 50
    prompts = [message["text"] for message in page["messages"] if message["role"] == "user"]
    assert prompts == [f"Prompt {index}" for index in range(5, 30)]
    older = room.person.get(f"{room.path}/messages?cursor={page['next_cursor']}").json
    assert [message["text"] for message in older["items"] if message["role"] == "user"] == [
        f"Prompt {index}" for index in range(4, -1, -1)
    ]
    assert older["next_cursor"] is None


def test_history_pages_neither_skip_nor_repeat_while_messages_come_in(room):
    for index in range(4):
        room.send(f"Prompt {index}")
    seen, cursor = [], ""
    while cursor is not None:
        page = room.person.get(f"{room.path}/messages?limit=3{cursor and f'&cursor={cursor}'}").json
        seen += [message["id"] for message in page["items"]]
        cursor = page["next_cursor"]
        if len(seen) == 3:
            room.send("In between")
    assert len(seen) == len(set(seen)) == 8
