"""All that there is about a user, as one streamed document."""

import json

import pytest
from sqlalchemy import text

from app.account import export
from app.auth.schemas import SessionsOut
from app.billing.grants import grant_pro
from app.core.clock import utc_now
from app.core.database import db


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(export, "ROOMS_AT_ONCE", 2)
    monkeypatch.setattr(export, "MESSAGES_AT_ONCE", 3)


def test_export_holds_everything_as_the_api_shows_it(app, user, small_pieces):
    rooms = [user.make_chatroom(f"Room “{number}”") for number in range(5)]
    for number in range(4):
        assert user.post(f"{rooms[1]}/message", json={"text": f'Quote " and \\ {number}'}).status_code == 202
        # Ended here, so that no worker of another test's changes it between the export and the page.
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
    assert set(told) == {"user", "subscriptions", "sessions", "chatrooms"}
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
    pieces = answer.iter_encoded()
    next(pieces)
    with app.app_context():
        assert db.engine.pool.checkedout() == 0
        busy = (
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            " AND datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert db.session.scalar(text(busy)) == 0
    rest = b"".join(pieces)
    answer.close()
    assert rest.endswith(b"]}")
