"""What a request may cost once its session is known. A change that costs more or less edits this table."""

from threading import get_ident

import pytest
from redis.connection import AbstractConnection
from sqlalchemy import event

from app.core.db import db

COSTS = {  # SQL statements; round trips to Redis, including those for the list's version and for the task
    "GET /chatroom": (0, 2),
    "GET /chatroom/{room}": (2, 1),
    "GET /chatroom/{room}/messages/{reply}": (1, 1),
    "GET /models": (0, 1),
    "GET /search?q=hello": (1, 1),
    "GET /user/api-keys": (1, 1),
    "GET /user/me": (2, 1),
    "GET /user/security-events": (1, 1),
    "GET /user/usage": (2, 1),
    "GET /user/usage/history": (2, 1),
    "POST /chatroom": (2, 2),
    "POST /chatroom/{room}/message": (3, 4),
}
ADVICE = "ask for it in a statement that is there already, or edit COSTS and say in the commit what the client gets"


@pytest.fixture
def round_trips(monkeypatch):
    """Collect every packet that this thread sends to Redis."""
    sent, own = [], get_ident()
    send = AbstractConnection.send_packed_command

    def note(self, command, **kwargs):
        if get_ident() == own:
            sent.append(command)
        return send(self, command, **kwargs)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", note)
    return sent


@pytest.mark.parametrize("call", COSTS)
def test_a_request_costs_no_more_than_its_budget(user, statements, round_trips, call):
    room = user.make_chatroom()
    reply = user.post(f"{room}/message", json={"text": "Hello"}).json["reply"]["id"]
    method, path = call.split()
    path = path.replace("/chatroom/{room}", room).replace("{reply}", reply)
    body = {"json": {"text": "Hello again"} if "message" in path else {}} if method == "POST" else {}
    assert user.call(method, path, **body).status_code < 300  # opens the connections and caches the list's page
    statements.clear()
    round_trips.clear()
    assert user.call(method, path, **body).status_code < 300
    assert (len(statements), len(round_trips)) == COSTS[call], f"{ADVICE}\n{statements}\n{round_trips}"


def test_a_request_with_an_api_key_costs_as_much_as_one_with_a_token(app, user, statements, round_trips):
    room = user.make_chatroom()
    key = user.post("/user/api-keys", json={"name": "CI", "scopes": ["chat:read", "chat:write"]}).json["key"]
    for call in ("GET /chatroom", "GET /models", "POST /chatroom/{room}/message"):
        method, path = call.split()
        path = path.replace("/chatroom/{room}", room)
        body = {"json": {"text": "Hello"}} if method == "POST" else {}
        headers = {"Authorization": f"Bearer {key}"}
        assert user.client.open(path, method=method, headers=headers, **body).status_code < 300
        statements.clear()
        round_trips.clear()
        assert user.client.open(path, method=method, headers=headers, **body).status_code < 300
        assert (len(statements), len(round_trips)) == COSTS[call], f"{call}: {ADVICE}\n{statements}\n{round_trips}"


def test_a_prompt_with_an_idempotency_key_costs_as_much_as_one_without(user, statements, round_trips):
    path = f"{user.make_chatroom()}/message"
    for key in ("first", "second"):
        statements.clear()
        round_trips.clear()
        answer = user.post(path, json={"text": "Hello"}, headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.headers.get("Idempotent-Replayed")) == (202, None)
    cost = COSTS["POST /chatroom/{room}/message"]
    assert (len(statements), len(round_trips)) == cost, (statements, round_trips)


CHANGES = {"edit": (6, 4), "retry": (9, 3)}  # the same, for editing a prompt and retrying a completed reply


@pytest.mark.parametrize("verb", CHANGES)
def test_a_change_of_the_conversation_costs_no_more_than_its_budget(room, runner, round_trips, verb):
    with room.app.app_context():
        engine = db.engine
    reply = room.answer(runner, "Hello")
    statements = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    round_trips.clear()
    changed = reply.in_reply_to if verb == "edit" else reply.id
    assert room.person.post(f"{room.path}/messages/{changed}/{verb}", json={"text": "Hi"}).status_code == 202
    assert (len(statements), len(round_trips)) == CHANGES[verb], (statements, round_trips)


GENERATIONS = {  # SQL statements and commits of the worker, from the task to the stored end
    "whole": (4, 2),
    "streamed": (5, 3),  # one more of each: before it publishes text, the worker notes that it does
}


@pytest.mark.parametrize("kind", GENERATIONS)
def test_a_generation_costs_no_more_than_its_budget(room, runner, kind):
    with room.app.app_context():
        engine = db.engine
    room.answer(runner, "Hello")
    runner.keeper.close()  # otherwise it reads the lease each second
    reply_id = room.send("Hello again", stream=kind == "streamed")
    statements, commits = [], []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    event.listen(engine, "commit", commits.append)
    room.generate(runner, reply_id)
    assert room.row(reply_id).status == "completed"
    assert (len(statements) - 1, len(commits)) == GENERATIONS[kind], statements
