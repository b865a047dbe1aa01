"""A request for a chatroom that is repeated under one key opens one chatroom."""

import pytest
from sqlalchemy import text

from app.core.db import db
from tests.conftest import purge_all
from tests.people import all_at_once
from tests.problems import assert_problem

KEY = {"Idempotency-Key": "open-1"}
BODY = {"title": "Once", "instruction": "Be brief."}


def open_room(user, body=BODY, headers=KEY):
    return user.post("/chatroom", json=body, headers=headers)


def rooms_of(user):
    return user.get("/chatroom?limit=100").json["items"]


def test_the_same_key_and_body_open_one_room(user):
    first, again = open_room(user), open_room(user, {"instruction": " Be brief. ", "title": "Once", "model": None})
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json == first.json
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert rooms_of(user) == [first.json]


def test_two_requests_without_a_key_open_two_rooms(user):
    assert open_room(user, headers={}).json["id"] != open_room(user, headers={}).json["id"]
    assert len(rooms_of(user)) == 2


def test_a_key_works_without_a_body(user):
    first = user.post("/chatroom", headers=KEY)
    assert first.status_code == 201
    assert user.post("/chatroom", json={}, headers=KEY).json == first.json


def test_twenty_requests_at_once_under_one_key_open_one_room(user):
    answers = all_at_once([lambda: open_room(user)] * 20)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert len(rooms_of(user)) == 1


def test_the_first_answer_is_repeated_whatever_becomes_of_the_room(app, user):
    first = open_room(user)
    path = f"/chatroom/{first.json['id']}"
    assert user.patch(path, json={"title": "Another", "pinned": True}).status_code == 200
    assert open_room(user).json == first.json
    assert user.delete(path).status_code == 204
    purge_all(app)
    again = open_room(user)
    assert (again.status_code, again.json) == (201, first.json)
    assert_problem(user.get(path), 404, "not_found")
    assert rooms_of(user) == []


@pytest.mark.parametrize("body", [{"title": "Twice"}, {}, BODY | {"model": "gemini-3.5-flash"}])
def test_a_key_with_another_body_is_refused(user, body):
    assert open_room(user).status_code == 201
    assert_problem(open_room(user, body), 422, "idempotency_key_reused")
    assert len(rooms_of(user)) == 1


def test_a_key_with_another_path_is_refused(user):
    room = f"/chatroom/{open_room(user).json['id']}"
    refused = user.post(f"{room}/message", json={"text": "Hello"}, headers=KEY)
    assert_problem(refused, 422, "idempotency_key_reused")
    other = {"Idempotency-Key": "message-1"}
    assert user.post(f"{room}/message", json={"text": "Hello"}, headers=other).status_code == 202
    assert_problem(open_room(user, headers=other), 422, "idempotency_key_reused")


def test_the_same_key_of_two_users_opens_two_rooms(user, make_user):
    assert open_room(user).json["id"] != open_room(make_user()).json["id"]


def test_a_key_is_new_again_after_a_day(app, user):
    first = open_room(user)
    with app.app_context():
        db.session.execute(text("UPDATE idempotency_keys SET created_at = created_at - interval '24 hours'"))
        db.session.commit()
    assert open_room(user).json["id"] != first.json["id"]


def test_a_refused_request_does_not_use_up_its_key(user):
    assert_problem(open_room(user, {"title": ""}), 422, "validation_error")
    assert open_room(user).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "ä"])
def test_an_invalid_key_is_422(user, key):
    refused = open_room(user, headers={"Idempotency-Key": key})
    assert list(assert_problem(refused, 422, "validation_error")["errors"]) == ["Idempotency-Key"]
