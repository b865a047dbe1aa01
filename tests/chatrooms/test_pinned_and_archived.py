"""Pinned chatrooms come first, and archived ones have a list of their own."""

import pytest

from app.chatrooms.models import Chatroom
from app.core.db import db
from tests.problems import assert_problem
from tests.transactions import undone


def titles(user, query=""):
    """Return the titles on all pages."""
    found, cursor = [], None
    while True:
        page = user.get(f"/chatroom?limit=2{query}{'' if cursor is None else f'&cursor={cursor}'}").json
        found += [room["title"] for room in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def test_pinned_rooms_come_first_and_pages_have_no_gaps(user):
    paths = [user.make_chatroom(str(number)) for number in range(7)]
    for number in (1, 4, 5):
        assert user.patch(paths[number], json={"pinned": True}).json["pinned"] is True
    assert titles(user) == ["5", "4", "1", "6", "3", "2", "0"]
    assert user.post(f"{paths[1]}/message", json={"text": "Hello"}).status_code == 202
    assert user.post(f"{paths[0]}/message", json={"text": "Hello"}).status_code == 202
    assert titles(user) == ["1", "5", "4", "0", "6", "3", "2"]
    user.patch(paths[1], json={"pinned": False})
    assert titles(user) == ["5", "4", "0", "1", "6", "3", "2"]


def test_archived_rooms_have_a_list_of_their_own(user):
    paths = [user.make_chatroom(str(number)) for number in range(5)]
    for number in (0, 2, 3):
        assert user.patch(paths[number], json={"archived": True}).json["archived"] is True
    user.patch(paths[0], json={"pinned": True})
    assert titles(user) == titles(user, "&archived=false") == ["4", "1"]
    assert titles(user, "&archived=true") == ["0", "3", "2"]
    assert user.get(paths[2]).json["archived"] is True
    assert user.post(f"{paths[2]}/message", json={"text": "Hello"}).status_code == 202
    assert titles(user, "&archived=true") == ["0", "2", "3"]
    assert len(user.get("/user/me/export").json["chatrooms"]) == 5


def test_both_lists_are_cached_and_a_change_shows_in_both_at_once(user):
    path = user.make_chatroom("Room")

    def look():
        lists = [user.get(f"/chatroom?archived={archived}") for archived in ("false", "true")]
        return [(len(one.json["items"]), one.headers["X-Cache"]) for one in lists]

    assert look() == [(1, "MISS"), (0, "MISS")]
    assert look() == [(1, "HIT"), (0, "HIT")]
    user.patch(path, json={"archived": True})
    assert look() == [(0, "MISS"), (1, "MISS")]
    user.patch(path, json={"archived": False})
    assert look() == [(1, "MISS"), (0, "MISS")]


def test_no_page_of_a_deleted_room_stays_in_redis(user, redis_db):
    path = user.make_chatroom("A secret title")
    user.patch(path, json={"archived": True})
    user.get("/chatroom?archived=true")
    assert user.delete(path).status_code == 204
    assert not any(b"secret" in (redis_db.get(key) or b"") for key in redis_db.keys("cache:*"))


def test_a_change_leaves_other_fields_alone(user):
    path = user.make_chatroom("Room")
    user.patch(path, json={"instruction": "Rhyme."})
    user.patch(path, json={"pinned": True})
    room = user.patch(path, json={"title": "Another"}).json
    assert (room["title"], room["instruction"], room["pinned"]) == ("Another", "Rhyme.", True)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "_schema"),
        ({"title": None}, "title"),
        ({"pinned": None}, "pinned"),
        ({"pinned": "true"}, "pinned"),
        ({"archived": 1}, "archived"),
        ({"archived": True, "pinnd": True}, "pinnd"),
        ({"title_source": "user"}, "title_source"),
    ],
)
def test_an_invalid_change_changes_nothing(user, body, field):
    path = user.make_chatroom("Room")
    before = user.get(path).json
    assert list(assert_problem(user.patch(path, json=body), 422, "validation_error")["errors"]) == [field]
    assert user.get(path).json == before


@pytest.mark.parametrize("archived", ["1", "yes", "True", "", "null"])
def test_archived_must_be_true_or_false(user, archived):
    assert_problem(user.get(f"/chatroom?archived={archived}"), 422, "validation_error")


def test_the_list_is_read_from_its_index(app, user):
    """This holds however many rooms are archived."""
    user.make_chatroom()
    statement = "EXPLAIN SELECT id FROM chatrooms WHERE user_id = :user AND archived = false"
    order = " ORDER BY pinned DESC, last_prompt_at DESC, id DESC LIMIT 20"
    with app.app_context(), undone():
        db.session.execute(db.text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(db.session.scalars(db.text(statement + order), {"user": user.id}))
        assert "ix_chatrooms_listed" in plan, plan
        assert "Sort" not in plan, plan
        assert db.session.query(Chatroom).count() == 1
