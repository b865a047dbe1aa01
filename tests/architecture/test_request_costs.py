"""What a request may cost once its session is known. A change that costs more or less edits this table."""

import pytest
from redis.connection import AbstractConnection

COSTS = {  # SQL statements, and round trips to Redis, the list's version and the task included
    "GET /chatroom": (0, 2),
    "GET /chatroom/{room}": (2, 1),
    "GET /chatroom/{room}/messages/{reply}": (1, 1),
    "GET /user/me": (2, 1),
    "GET /user/usage": (2, 1),
    "POST /chatroom/{room}/message": (3, 4),
}


@pytest.fixture
def round_trips(monkeypatch):
    """Every packet that is sent to Redis."""
    sent = []
    send = AbstractConnection.send_packed_command

    def note(self, command, **kwargs):
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
    body = {"json": {"text": "Hello again"}} if method == "POST" else {}
    assert user.call(method, path, **body).status_code < 300  # connections and the list's page are there now
    statements.clear()
    round_trips.clear()
    assert user.call(method, path, **body).status_code < 300
    assert (len(statements), len(round_trips)) == COSTS[call], (statements, round_trips)
