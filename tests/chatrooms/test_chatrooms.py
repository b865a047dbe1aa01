"""Open, list, read, rename and delete chatrooms; nobody reaches somebody else's."""

from uuid import UUID, uuid4

import pytest

from app.core.db import db
from tests.conftest import purge_all
from tests.problems import assert_problem

VERBS = [
    ("GET", "", None),
    ("PATCH", "", {"title": "Mine now"}),
    ("DELETE", "", None),
    ("GET", "/messages", None),
    ("POST", "/message", {"text": "Hello"}),
    ("GET", "/messages/0192d3a4-5b6c-7d8e-9f01-23456789abcd", None),
]


def titles(response):
    assert response.status_code == 200, response.text
    return [room["title"] for room in response.json["items"]]


def test_a_new_chatroom_is_returned_in_full_with_its_location(user):
    response = user.post("/chatroom", json={"title": "  How the internet works \n"})
    assert response.status_code == 201
    room = response.json
    assert list(room) == [
        *("id", "title", "title_source", "instruction", "model", "pinned", "archived", "created_at", "updated_at")
    ]
    assert UUID(room["id"]).version == 7
    assert room["title"] == "How the internet works"
    assert room["created_at"] == room["updated_at"]
    assert room["created_at"].endswith("Z")
    assert response.headers["Location"] == f"/chatroom/{room['id']}"
    assert user.get(response.headers["Location"]).json == room | {"messages": [], "next_cursor": None}


@pytest.mark.parametrize(
    "title",
    [
        "a",
        "a" * 255,
        "  " + "a" * 255 + "  ",
        "👩‍👩‍👧‍👦" * 36,
        "🙂" * 255,
        "مرحبا بالعالم",
        "שלום \u202eolleh",
        "日本語のチャット",
        "e\u0301",
        "tab\tand\nline",
        "'; DROP TABLE chatrooms; --",
        "<script>alert(1)</script>",
        "\\u0000 spelled out",
        "%s %(x)s {x} ${x}",
        "\u200b",
        "\U0010ffff",
    ],
)
def test_title_is_kept_as_it_was_written(user, title):
    path = user.make_chatroom(title)
    assert user.get(path).json["title"] == title.strip()
    assert titles(user.get("/chatroom")) == [title.strip()]


@pytest.mark.parametrize("title", ["", " ", "\t\n\u00a0\u3000", "a" * 256, "🙂" * 256, " " * 300])
def test_title_is_1_to_255_characters_after_trimming(user, title):
    path = user.make_chatroom("Before")
    for response in (user.post("/chatroom", json={"title": title}), user.patch(path, json={"title": title})):
        assert list(assert_problem(response, 422, "validation_error")["errors"]) == ["title"]
    assert titles(user.get("/chatroom")) == ["Before"]


def test_list_shows_the_latest_prompt_or_creation_first(user):
    first, _, _ = (user.make_chatroom(title) for title in ("first", "second", "third"))
    assert titles(user.get("/chatroom")) == ["third", "second", "first"]
    assert user.post(f"{first}/message", json={"text": "Hello"}).status_code == 202
    assert titles(user.get("/chatroom")) == ["first", "third", "second"]


def test_renaming_changes_updated_at_and_not_the_order(user):
    first = user.make_chatroom("first")
    user.make_chatroom("second")
    before = user.get(first).json
    renamed = user.patch(first, json={"title": "renamed"})
    assert renamed.status_code == 200
    assert renamed.json.items() <= (before | {"title": "renamed", "updated_at": renamed.json["updated_at"]}).items()
    assert renamed.json["updated_at"] > before["updated_at"]
    assert titles(user.get("/chatroom")) == ["second", "renamed"]


def test_deleted_room_is_gone_with_its_messages(app, user):
    path = user.make_chatroom()
    location = user.post(f"{path}/message", json={"text": "Hello"}).headers["Location"]
    response = user.delete(path)
    assert (response.status_code, response.data) == (204, b"")
    for method, tail, body in VERBS:
        assert_problem(user.call(method, path + tail, json=body), 404, "not_found")
    assert_problem(user.get(location), 404, "not_found")
    purge_all(app)
    with app.app_context():
        assert db.session.scalar(db.text("SELECT count(*) FROM messages")) == 0


def test_deleting_twice_is_404(user):
    path = user.make_chatroom()
    assert user.delete(path).status_code == 204
    assert_problem(user.delete(path), 404, "not_found")


@pytest.mark.parametrize(("method", "tail", "body"), VERBS)
def test_a_room_of_another_user_is_404_exactly_like_an_unknown_one(make_user, method, tail, body):
    ada, bob = make_user(), make_user()
    path = ada.make_chatroom("Ada's")
    foreign = bob.call(method, path + tail, json=body)
    unknown = bob.call(method, f"/chatroom/{uuid4()}{tail}", json=body)
    told = assert_problem(foreign, 404, "not_found") | {"request_id": ""}
    assert told == assert_problem(unknown, 404, "not_found") | {"request_id": ""}
    assert set(foreign.headers.keys()) == set(unknown.headers.keys())
    assert ada.get(path).json["title"] == "Ada's"
    assert ada.get(path).json["messages"] == []


def test_a_room_of_another_user_takes_the_same_statements_as_an_unknown_one(make_user, statements):
    ada, bob = make_user(), make_user()
    path = ada.make_chatroom()
    bob.get("/user/me")  # from now on his session is cached
    for verb, body in (("GET", None), ("PATCH", {"title": "Mine"}), ("DELETE", None)):
        done = []
        for address in (path, f"/chatroom/{uuid4()}"):
            statements.clear()
            assert bob.call(verb, address, json=body).status_code == 404
            done.append(list(statements))
        assert done[0] == done[1]


def test_lists_show_only_the_users_own_rooms(make_user):
    ada, bob = make_user(), make_user()
    ada.make_chatroom("Ada's")
    assert titles(bob.get("/chatroom")) == []
    bob.make_chatroom("Bob's")
    assert titles(ada.get("/chatroom")) == ["Ada's"]
    assert titles(bob.get("/chatroom")) == ["Bob's"]


def test_a_room_may_be_opened_without_a_title_or_a_body(user):
    for answer in (user.post("/chatroom"), user.post("/chatroom", json={})):
        assert (answer.status_code, answer.json["title"], answer.json["title_source"]) == (201, None, None)
    assert_problem(user.post("/chatroom", data=b"null", content_type="application/json"), 422, "validation_error")
    assert_problem(user.post("/chatroom", json=[]), 422, "validation_error")
