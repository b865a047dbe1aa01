"""The export streams everything about a user as one document."""

import json

import pytest
import requests
from sqlalchemy import text

from app.account import export
from app.auth.schemas import SessionsOut
from app.billing.tier import grant_pro
from app.core.clock import utc_now
from app.core.db import db
from app.core.transactions import transaction
from sandbox.stack.processes import wait_until
from tests.auth.conftest import make_key
from tests.problems import assert_problem
from tests.web_process import serving


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(export, "ROOMS_AT_ONCE", 2)
    monkeypatch.setattr(export, "MESSAGES_AT_ONCE", 3)


def test_export_holds_everything_as_the_api_shows_it(app, user, small_pieces):
    rooms = [user.make_chatroom(f"Room “{number}”") for number in range(5)]
    for number in range(4):
        assert user.post(f"{rooms[1]}/message", json={"text": f'Quote " and \\ {number}'}).status_code == 202
        # Ended here, so that a worker of another test changes nothing between the export and the page.
        with app.app_context():
            db.session.execute(
                text("UPDATE messages SET status = 'completed', lease_expires_at = NULL, text = coalesce(text, 'Done')")
            )
            db.session.commit()
    with app.app_context():
        grant_pro(user.id, reason="A gift", ends_at=None, now=utc_now())
    answer = user.get("/user/me/export")
    assert answer.status_code == 200
    assert answer.mimetype == "application/json"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="export.json"'
    told = json.loads(answer.data)
    assert set(told) == {"user", "subscriptions", "sessions", "api_keys", "security_events", "chatrooms"}
    assert told["user"] == user.get("/user/me").json
    assert told["sessions"] == user.get("/auth/sessions").json["items"]
    assert not SessionsOut().validate({"items": []})
    assert told["subscriptions"][0] | {"created_at": ""} == {
        "status": "granted",
        "reason": "A gift",
        "created_at": "",
        "ends_at": None,
        "revoked_at": None,
    }
    assert [f"/chatroom/{room['id']}" for room in told["chatrooms"]] == rooms
    page = user.get(f"{rooms[1]}/messages?limit=100").json["items"]
    assert told["chatrooms"][1]["messages"] == page[::-1]
    assert len(page) == 8


def test_empty_chatrooms_cost_no_statement_of_their_own(user, statements):
    def cost():
        statements.clear()
        assert len(json.loads(user.get("/user/me/export").data)["chatrooms"]) == rooms
        return len(statements)

    user.make_chatroom()
    rooms = 1
    before = cost()
    for _ in range(5):
        user.make_chatroom()
    rooms = 6
    assert cost() == before


def test_export_holds_nothing_of_others_and_no_secret(user, make_user):
    set_password = user.post("/auth/change-password", json={"new_password": "a-good-long-password"})
    user.access_token = set_password.json["access_token"]
    other = make_user()
    other.make_chatroom("Not yours")
    body = user.get("/user/me/export").text
    assert other.id not in body
    assert "Not yours" not in body
    assert "argon2" not in body


def test_no_connection_is_held_while_the_client_reads(app, user, small_pieces):
    for _ in range(3):
        user.make_chatroom()
    answer = user.get("/user/me/export", buffered=False)
    with app.app_context():
        pool = db.engine.pool
    told = [(piece, pool.checkedout()) for piece in answer.iter_encoded()]
    answer.close()
    assert told[-1][0].endswith(b"]}")
    assert {connections for _, connections in told} == {0}


def test_export_leaves_out_what_is_deleted_while_it_runs(user, small_pieces):
    for _ in range(5):
        make_key(user)
        user.make_chatroom()
    answer = user.get("/user/me/export", buffered=False)
    pieces = iter(answer.response)
    begun = next(pieces)
    assert user.delete("/user/me").status_code == 204
    told = json.loads(begun + b"".join(pieces))
    answer.close()
    assert (told["user"]["id"], told["security_events"], told["chatrooms"]) == (user.id, [], [])


@pytest.mark.parametrize("deleted", ["room", "account"])
def test_export_leaves_out_the_rest_when_a_room_or_account_is_deleted(app, user, make_user, monkeypatch, deleted):
    monkeypatch.setattr(export, "MESSAGES_AT_ONCE", 1)
    room = user.make_chatroom()
    for text_of_prompt in ("The first", "The second"):
        assert user.post(f"{room}/message", json={"text": text_of_prompt}).status_code == 202
    make_user().make_chatroom()
    user.make_chatroom("Another one")
    answer = user.get("/user/me/export", buffered=False)
    pieces = iter(answer.response)
    begun = b""
    while b"The first" not in begun:
        begun += next(pieces)
    assert user.delete(room if deleted == "room" else "/user/me").status_code == 204
    told = json.loads(begun + b"".join(pieces))
    answer.close()
    assert [len(one["messages"]) for one in told["chatrooms"]] == [1, 0]


def open_export(user):
    """Open an export whose client has read its first piece."""
    answer = user.get("/user/me/export", buffered=False)
    next(answer.iter_encoded())
    return answer


def test_a_user_has_one_export_at_a_time(user, make_user):
    first = open_export(user)
    refused = user.get("/user/me/export")
    assert_problem(refused, 429, "rate_limited")
    assert int(refused.headers["Retry-After"]) > 0
    assert make_user().get("/user/me/export").status_code == 200
    first.close()
    assert user.get("/user/me/export").status_code == 200


def test_a_user_has_one_export_at_a_time_even_when_its_slot_in_redis_is_gone(app, user, make_user):
    """The slot expires when a client reads nothing for a minute; its user must not use up the exports of others."""
    first = open_export(user)
    app.extensions["redis"].delete(f"exports:{user.id}")
    assert_problem(user.get("/user/me/export"), 429, "rate_limited")
    assert make_user().get("/user/me/export").status_code == 200
    first.close()
    assert user.get("/user/me/export").status_code == 200


def test_a_process_limits_its_exports_in_flight(user, make_user, monkeypatch, caplog):
    monkeypatch.setattr(export, "EXPORTS_PER_PROCESS", 1)
    held = open_export(make_user())
    refused = user.get("/user/me/export")
    assert_problem(refused, 503, "service_unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    assert "Export refused: this process is already running 1" in caplog.text
    held.close()
    assert user.get("/user/me/export").status_code == 200


def test_a_second_export_of_a_user_is_429_even_when_the_process_is_full(user, make_user, monkeypatch):
    """Repeated requests of one user must not briefly take the places of others."""
    monkeypatch.setattr(export, "EXPORTS_PER_PROCESS", 1)
    held = open_export(user)
    assert_problem(user.get("/user/me/export"), 429, "rate_limited")
    held.close()
    assert make_user().get("/user/me/export").status_code == 200


def test_an_export_slot_expires_within_a_minute_unless_its_process_renews_it(app, user, monkeypatch):
    monkeypatch.setattr(export, "SLOT_SECONDS", 0)  # so that each piece renews it
    key, valkey = f"exports:{user.id}", app.extensions["redis"]
    answer = user.get("/user/me/export", buffered=False)
    pieces = iter(answer.response)
    next(pieces)
    assert 0 < valkey.ttl(key) <= 60
    valkey.expire(key, 5)
    next(pieces)
    next(pieces)
    assert valkey.ttl(key) > 5
    answer.close()


def test_an_export_that_is_never_read_releases_its_slot(user):
    assert user.call("HEAD", "/user/me/export").status_code == 200
    user.get("/user/me/export", buffered=False).close()
    assert user.get("/user/me/export").status_code == 200


@pytest.mark.processes
def test_an_export_that_takes_too_long_is_cut_off(app, own_environment, mobile_numbers, tmp_path):
    """However slowly its client reads, it must not hold a thread any longer. What came is not a whole answer."""
    with serving(own_environment | {"EXPORT_MAX_SECONDS": "1"}, tmp_path / "web.log") as web:
        token = web.log_in(next(mobile_numbers))["access_token"]
        room = web.call("POST", "/chatroom", token=token, json={"title": "A room"}).json()["id"]
        with app.app_context(), transaction():
            db.session.execute(text("SET LOCAL session_replication_role = replica"))  # no search words, for speed
            db.session.execute(
                text(
                    "INSERT INTO messages (id, chatroom_id, position, role, text, status, created_at, streamed,"
                    " attempt, failures) SELECT gen_random_uuid(), :room, n, 'user', repeat('Hello', 1600),"
                    " 'completed', now(), false, 0, 0 FROM generate_series(0, 3999) n"
                ),
                {"room": room},
            )
            db.session.execute(text("UPDATE chatrooms SET turns = 4000"))

        def may_export():
            with web.call("GET", "/user/me/export", token=token, stream=True) as another:
                return another.status_code == 200

        with web.call("GET", "/user/me/export", token=token, stream=True) as answer:
            assert not may_export()
            assert wait_until(may_export, seconds=20)
            with pytest.raises(requests.RequestException):
                for _ in answer.iter_content(1_000_000):
                    pass
        assert "Traceback" not in web.log_file.read_text()
