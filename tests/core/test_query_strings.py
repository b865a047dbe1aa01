"""Query strings of lists: limits and cursors."""

import base64
from uuid import uuid4

import pytest

from tests.people import Person
from tests.problems import assert_problem

AN_ID = "0192d3a4-5b6c-7d8e-9f01-23456789abcd"


@pytest.fixture(params=["/chatroom", "{room}/messages"])
def listing(request, user) -> str:
    """The address of a list."""
    return request.param.format(room=user.make_chatroom())


def encoded(text: str | bytes) -> str:
    raw = text.encode() if isinstance(text, str) else text
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@pytest.mark.parametrize(
    "limit",
    [
        "0",
        "101",
        "-1",
        "abc",
        "",
        "1.5",
        "1e1",
        "null",
        "0x10",
        "1_0",
        "%C2%B2",
        "%EF%BC%95",
        "%00",
        "5%00",
        "9" * 5000,
    ],
)
def test_limit_outside_1_to_100_is_422(user, listing, limit):
    body = assert_problem(user.get(f"{listing}?limit={limit}"), 422, "validation_error")
    assert "limit" in body["errors"]
    assert "query" in body["detail"]


@pytest.mark.parametrize("limit", ["1", "100"])
def test_limit_from_1_to_100_is_accepted(user, listing, limit):
    assert user.get(f"{listing}?limit={limit}").status_code == 200


def test_parameter_given_twice_is_422(user, listing):
    assert "limit" in assert_problem(user.get(f"{listing}?limit=5&limit=6"), 422, "validation_error")["errors"]
    assert "cursor" in assert_problem(user.get(f"{listing}?cursor=a&cursor=b"), 422, "validation_error")["errors"]


def test_unknown_parameter_is_422(user, listing):
    assert "page" in assert_problem(user.get(f"{listing}?page=2"), 422, "validation_error")["errors"]
    assert "Limit" in assert_problem(user.get(f"{listing}?Limit=2"), 422, "validation_error")["errors"]


GARBAGE = [
    "",
    "a",
    "abc",
    "null",
    "====",
    "!!!!",
    "%00",
    "%FF%FE",
    "%F0%9F%92%A9",
    "a" * 199,
    "a" * 201,
    "a" * 7_000,
    encoded(""),
    encoded("|"),
    encoded("||"),
    encoded(b"\x00"),
    encoded(b"\xff\xfe"),
    encoded("ä|ö"),
    encoded("{}"),
    encoded("null"),
    encoded("-1"),
    encoded("1.5"),
    encoded("1e9"),
    encoded("9" * 40),
    encoded("²"),
    encoded("٣"),
    encoded(str(2**31)),
    encoded(f"2026-11-21T00:00:00+00:00|{'0' * 31}"),
    encoded("2026-11-21T00:00:00+00:00|x"),
    encoded(f"2026-11-21T00:00:00|{AN_ID}"),
    encoded(f"2026-11-21|{AN_ID}"),
    encoded(f"99999-01-01T00:00:00+00:00|{AN_ID}"),
    encoded(f"-0001-01-01T00:00:00+00:00|{AN_ID}"),
    encoded(f"0000-00-00T00:00:00+00:00|{AN_ID}"),
    encoded(f"infinity|{AN_ID}"),
    encoded(f"now|{AN_ID}"),
    encoded(f"0001-01-01T00:00:00+16:00|{AN_ID}"),
    encoded(f"2026-11-21T00:00:00+00:00|{AN_ID}|1"),
    encoded(f"2026-11-21T00:00:00+00:00|'; DROP TABLE users; --{AN_ID}"),
    encoded("1|2"),
]


@pytest.mark.parametrize("cursor", GARBAGE)
def test_garbage_cursor_is_400(user, listing, cursor):
    assert_problem(user.get(f"{listing}?cursor={cursor}"), 400, "invalid_cursor")


@pytest.mark.parametrize(
    "moment",
    [
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00+00:00",
        "9999-12-31T23:59:59.999999-14:00",
        "2026-11-21T00:00:00+00:00:01",
        "2026-01-01T00:00:00+16:00",
        "2026-01-01T00:00:00-23:59:59",
        "2026-01-01T00:00:00+01:00:00.9",
    ],
)
def test_cursor_at_the_edge_of_time_is_invalid(user, moment):
    assert_problem(user.get(f"/chatroom?cursor={encoded(f'{moment}|{uuid4()}')}"), 400, "invalid_cursor")


def test_cursor_of_one_list_is_invalid_for_another(user: Person):
    room = user.make_chatroom()
    user.make_chatroom()
    cursor = user.get("/chatroom?limit=1").json["next_cursor"]
    assert cursor
    assert_problem(user.get(f"{room}/messages?cursor={cursor}"), 400, "invalid_cursor")


def test_another_users_cursor_shows_only_the_callers_own_rooms(make_user):
    ada, bob = make_user(), make_user()
    bobs = [bob.make_chatroom(f"Bob {number}") for number in range(3)]
    for number in range(3):
        ada.make_chatroom(f"Ada {number}")
    cursor = ada.get("/chatroom?limit=1").json["next_cursor"]
    shown = [f"/chatroom/{room['id']}" for room in bob.get(f"/chatroom?cursor={cursor}").json["items"]]
    assert shown == bobs[::-1]
