"""What the deletion of an account removes, what it keeps, and what happens to requests during it."""

from uuid import uuid4

import pytest
from sqlalchemy import text

from app.account import service
from app.chatrooms.service import create_chatroom
from app.core.auth import TokenRevoked
from app.core.clock import utc_now
from app.core.db import db
from app.messages.service import accept_prompt
from app.quota.usage import usage_today
from tests.conftest import purge_all
from tests.people import log_in
from tests.problems import assert_problem


def count(app, table):
    with app.app_context():
        return db.session.scalar(text(f"SELECT count(*) FROM {table}"))


def test_deletion_removes_all_data_of_the_user(app, user, make_user):
    other = make_user()
    kept = other.make_chatroom()
    room = user.make_chatroom()
    assert user.post(f"{room}/message", json={"text": "Hello"}, headers={"Idempotency-Key": "k"}).status_code == 202
    answer = user.delete("/user/me")
    assert (answer.status_code, answer.data) == (204, b"")
    purge_all(app)
    for table, left in {"users": 1, "chatrooms": 1, "messages": 0, "auth_sessions": 1, "idempotency_keys": 0}.items():
        assert count(app, table) == left, table
    assert other.get(kept).status_code == 200
    with app.app_context():
        rows = [
            row
            for table in db.metadata.sorted_tables
            for row in db.session.scalars(text(f"SELECT t::text FROM {table.name} t"))
        ]
    assert not any(user.mobile in row or user.id in row for row in rows)


def test_every_token_of_a_deleted_user_is_revoked(client, user):
    user.delete("/user/me")
    assert_problem(user.get("/user/me"), 401, "token_revoked")
    headers = {"Authorization": f"Bearer {user.refresh_token}"}
    assert_problem(client.post("/auth/refresh", headers=headers), 401, "token_revoked")


def test_prompts_of_the_day_stay_spent_after_signing_up_again(user, make_user):
    room = user.make_chatroom()
    for _ in range(3):
        user.post(f"{room}/message", json={"text": "Hello"})
    user.delete("/user/me")
    again = make_user(mobile=user.mobile)
    assert again.id != user.id
    assert again.get("/user/usage").json["used"] == 3
    assert again.get("/chatroom").json["items"] == []


def test_deleted_number_is_unknown_until_it_signs_up(app, client, user):
    user.delete("/user/me")
    assert_problem(log_in(client, user.mobile), 404, "account_not_found")


@pytest.mark.parametrize("path", ["/user/me", "/user/me/export"])
def test_a_request_without_a_token_deletes_and_reveals_nothing(client, path):
    method = "DELETE" if path == "/user/me" else "GET"
    assert_problem(client.open(path, method=method), 401, "token_missing")


def test_a_request_that_races_the_deletion_gets_token_revoked(app):
    """The request's token was checked just before the account was deleted."""
    nobody, now = uuid4(), utc_now()
    with app.app_context():
        for do in (
            lambda: create_chatroom(nobody, "A room", now=now),
            lambda: accept_prompt(nobody, uuid4(), "Hello", now=now),
            lambda: service.rename(nobody, "Ada", now=now),
            lambda: usage_today(nobody, now=now),
        ):
            with pytest.raises(TokenRevoked):
                do()
