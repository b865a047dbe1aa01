"""Keyset pagination: no room is skipped or shown twice, whatever happens between two pages."""

from datetime import UTC, datetime

import pytest

from app.core.db import db


def all_pages(user, limit, *, between=lambda: None):
    """Return the titles on each page, to the end. `between` is called after every page."""
    pages, cursor = [], ""
    while True:
        response = user.get(f"/chatroom?limit={limit}{cursor}")
        assert response.status_code == 200, response.text
        pages.append([room["title"] for room in response.json["items"]])
        if response.json["next_cursor"] is None:
            return pages
        cursor = f"&cursor={response.json['next_cursor']}"
        between()


def flat(pages):
    return [title for page in pages for title in page]


@pytest.fixture
def ten_rooms(user):
    for number in range(10):
        user.make_chatroom(f"room {number}")
    return [f"room {number}" for number in reversed(range(10))]


@pytest.mark.parametrize(
    ("limit", "sizes"), [(1, [1] * 10), (3, [3, 3, 3, 1]), (5, [5, 5]), (9, [9, 1]), (10, [10]), (100, [10])]
)
def test_pages_together_are_the_list(user, ten_rooms, limit, sizes):
    pages = all_pages(user, limit)
    assert [len(page) for page in pages] == sizes
    assert flat(pages) == ten_rooms


def test_page_holds_20_rooms_unless_told_otherwise(user):
    for number in range(21):
        user.make_chatroom(f"room {number}")
    assert [len(page) for page in (user.get("/chatroom").json["items"],)] == [20]
    assert user.get("/chatroom").json["next_cursor"]


def test_empty_list_is_one_empty_page(user):
    assert user.get("/chatroom").json == {"items": [], "next_cursor": None}


def test_rooms_opened_between_pages_do_not_shift_the_next_page(user, ten_rooms):
    pages = all_pages(user, 3, between=lambda: user.make_chatroom("new"))
    assert flat(pages) == ten_rooms


def test_rooms_deleted_between_pages_hide_no_other(user, ten_rooms):
    """The very row that the cursor points at is deleted."""

    def delete_last_shown():
        newest = user.get("/chatroom?limit=100").json["items"]
        user.delete(f"/chatroom/{next(room['id'] for room in newest if room['title'] == 'room 7')}")

    first = user.get("/chatroom?limit=3").json
    assert [room["title"] for room in first["items"]] == ten_rooms[:3]
    delete_last_shown()
    second = user.get(f"/chatroom?limit=3&cursor={first['next_cursor']}").json
    assert [room["title"] for room in second["items"]] == ten_rooms[3:6]


def test_room_that_gets_a_prompt_between_pages_is_not_shown_twice(user, ten_rooms):
    first = user.get("/chatroom?limit=3").json
    room = f"/chatroom/{first['items'][1]['id']}"
    assert user.post(f"{room}/message", json={"text": "Hello"}).status_code == 202
    second = user.get(f"/chatroom?limit=100&cursor={first['next_cursor']}").json
    assert [shown["title"] for shown in second["items"]] == ten_rooms[3:]


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_rooms_of_the_very_same_moment_are_neither_skipped_nor_repeated(app, user, ten_rooms, limit):
    with app.app_context():
        moment = datetime(2026, 11, 21, 9, 30, 0, 123456, tzinfo=UTC)
        db.session.execute(db.text("UPDATE chatrooms SET last_prompt_at = :moment"), {"moment": moment})
        db.session.commit()
    shown = flat(all_pages(user, limit))
    assert sorted(shown) == sorted(ten_rooms)
    assert shown == flat(all_pages(user, 100))


def test_moments_that_differ_by_a_microsecond_keep_their_order(app, user, ten_rooms):
    with app.app_context():
        db.session.execute(
            db.text(
                "UPDATE chatrooms SET last_prompt_at = timestamptz '2026-11-21 09:30:00.999995Z'"
                " + right(title, 1)::int * interval '1 microsecond'"
            )
        )
        db.session.commit()
    assert flat(all_pages(user, 1)) == ten_rooms


def test_a_cursor_needs_no_url_encoding(user, ten_rooms):
    cursor = user.get("/chatroom?limit=3").json["next_cursor"]
    assert cursor.replace("-", "").replace("_", "").isalnum()
    assert len(cursor) <= 200
