"""Bad request bodies: each kind gets the same status and code on every route."""

import json
from collections.abc import Callable
from typing import NamedTuple

import pytest
from werkzeug.test import TestResponse

from tests.problems import assert_problem

NOT_JSON = {
    "a bare word": b"hello",
    "a cut object": b'{"title": "a',
    "single quotes": b"{'title': 'a'}",
    "a comma too many": b'{"title": "a",}',
    "two documents": b'{"title": "a"}{"title": "b"}',
    "only blanks": b"  \n ",
    "a NUL": b"\x00",
    "invalid UTF-8": b'{"title": "\xff\xfe"}',
    "an overlong spelling in UTF-8": b'{"title": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"title": "\xed\xa0\x80"}',
    "UTF-16": '{"title": "a"}'.encode("utf-16"),
    "a raw control character": b'{"title": "a\nb"}',
    "a number that is none": b'{"title": NaN}',
    "an infinite number": b'{"title": -Infinity}',
    "100 KB of open brackets": b"[" * 100_000,
    "100 KB of nested objects": b'{"a":' * 20_000,
    "a number of 5000 digits": b'{"title": ' + b"9" * 5_000 + b"}",
}
NOT_AN_OBJECT = {
    "null": b"null",
    "an array": b"[]",
    "an array of objects": b'[{"title": "a"}]',
    "a string": b'"title"',
    "a number": b"7",
    "a huge float": b"1e999",
    "a boolean": b"true",
}
NO_TEXT = {
    "a NUL character": '"a\\u0000b"',
    "only a NUL character": '"\\u0000"',
    "a high surrogate alone": '"\\ud83d"',
    "a low surrogate alone": '"a\\udc00"',
    "surrogates the wrong way round": '"\\ude00\\ud83d"',
    "null": "null",
    "a number": "7",
    "a huge number": "9" * 4_000,
    "a huge float": "1e999",
    "a boolean": "true",
    "an array": '["a"]',
    "an object": '{"a": "b"}',
    "an empty text": '""',
    "blanks": '" \\t\\n\\u00a0\\u2003 "',
}
WRONG_TYPES = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/xml",
    "application/jsonx",
    "json",
    "application/json-patch+json",
    "text/json",
    "\u00fc",
]


class Route(NamedTuple):
    """A route that takes a body, and a field that the body must have."""

    method: str
    path: str
    field: str
    value: str

    def body(self) -> dict[str, str]:
        return {self.field: self.value}


ROUTES = [
    Route("POST", "/auth/signup", "mobile", "+14155559000"),
    Route("POST", "/auth/send-otp", "mobile", "+14155559000"),
    Route("POST", "/auth/verify-otp", "otp", "123456"),
    Route("PATCH", "/user/me", "name", "Ada"),
    Route("POST", "/chatroom", "title", "A room"),
    Route("PATCH", "{room}", "title", "A room"),
    Route("POST", "{room}/message", "text", "Hello"),
]


@pytest.fixture(params=ROUTES, ids=lambda route: f"{route.method} {route.path}")
def route(request, user) -> Route:
    return request.param._replace(path=request.param.path.format(room=user.make_chatroom()))


Send = Callable[..., TestResponse]


@pytest.fixture
def send(user, route) -> Send:
    """Send a body, as bytes, to the route."""

    def send_body(body: bytes, content_type: str | None = "application/json") -> TestResponse:
        return user.call(route.method, route.path, data=body, content_type=content_type)

    return send_body


def test_a_body_that_is_not_json_is_400(send):
    for name, body in NOT_JSON.items():
        response = send(body)
        assert response.status_code == 400, (name, response.text)
        assert_problem(response, 400, "malformed_json")


def test_deep_nesting_is_refused(send):
    """The parser refuses it where it has a bound (Python 3.13 has one); otherwise it has no type that a field takes."""
    nesting = b"[" * 50_000 + b"]" * 50_000
    for body in (nesting, b'{"title": %b}' % nesting):
        response = send(body)
        assert response.status_code in {400, 422}, response.text
        assert_problem(
            response, response.status_code, {400: "malformed_json", 422: "validation_error"}[response.status_code]
        )


def test_json_that_is_no_object_is_422(send):
    for name, body in NOT_AN_OBJECT.items():
        response = send(body)
        assert response.status_code == 422, (name, response.text)
        assert_problem(response, 422, "validation_error")


def test_other_content_types_are_415(send, route):
    body = json.dumps(route.body()).encode()
    for content_type in [*WRONG_TYPES, None]:
        assert_problem(send(body, content_type), 415, "unsupported_media_type")
    assert_problem(send(b"mobile=1", "application/x-www-form-urlencoded"), 415, "unsupported_media_type")
    assert_problem(send(b"", "text/plain"), 415, "unsupported_media_type")


def test_missing_body_is_422_and_names_the_missing_field(send, route):
    if route[:2] == ("POST", "/chatroom"):  # a chatroom needs no field
        assert send(b"{}").status_code == 201
        return
    named = "_schema" if route.method == "PATCH" and route.field == "title" else route.field  # any of several will do
    for content_type in ("application/json", None):
        assert named in assert_problem(send(b"", content_type), 422, "validation_error")["errors"]
    assert named in assert_problem(send(b"{}"), 422, "validation_error")["errors"]


def test_unknown_field_is_422_and_named(send, route):
    body = assert_problem(send(json.dumps(route.body() | {"colour": "blue"}).encode()), 422, "validation_error")
    assert "colour" in body["errors"]


@pytest.mark.parametrize("name", ["\\u0000", "\\ud800", "a\\udfffb", "", "__proto__", "\\ud83d\\ude00", "a" * 1_000])
def test_odd_field_names_are_422_in_an_answer_of_valid_unicode(send, name):
    response = send(b'{"' + name.encode() + b'": 1}')
    assert_problem(response, 422, "validation_error")
    json.dumps(response.get_json(), ensure_ascii=False).encode()  # fails if there is a lone surrogate


def test_a_value_that_is_no_text_is_422_at_its_field(send, route):
    for name, value in NO_TEXT.items():
        if name == "null" and (route.field == "name" or route[:2] == ("POST", "/chatroom")):
            continue  # null removes the name, or stands for no title
        response = send(f'{{"{route.field}": {value}}}'.encode())
        assert response.status_code == 422, (name, response.text)
        assert route.field in assert_problem(response, 422, "validation_error")["errors"], name


def test_byte_order_mark_and_charset_do_no_harm(user):
    body = '{"title": "Grüße 👋"}'
    for data, content_type in [
        (body.encode("utf-8-sig"), "application/json"),
        (body.encode(), "application/json; charset=utf-8"),
        (body.encode(), "APPLICATION/JSON"),
        (f"  {body}\n".encode(), "application/json"),
    ]:
        response = user.post("/chatroom", data=data, content_type=content_type)
        assert response.status_code == 201, response.text
        assert response.json["title"] == "Grüße 👋"


def test_body_over_128_kib_is_413(send):
    padding = b'{"title": "' + b"a" * (128 * 1024) + b'"}'
    assert_problem(send(padding), 413, "body_too_large")
    assert_problem(send(b" " * 1_000_000), 413, "body_too_large")
    assert_problem(send(b" " * 1_000_000, "text/plain"), 413, "body_too_large")


def test_a_body_of_exactly_128_kib_is_read(user):
    body = b'{"title": "A room"}'
    response = user.post("/chatroom", data=body + b" " * (128 * 1024 - len(body)), content_type="application/json")
    assert response.status_code == 201


def test_the_token_is_checked_before_the_body(client):
    for method, path, *_ in ROUTES[3:]:
        address = path.format(room="/chatroom/0192d3a4-5b6c-7d8e-9f01-23456789abcd")
        for content_type in ("application/json", "text/plain"):
            response = client.open(address, method=method, data=b"{", content_type=content_type)
            assert_problem(response, 401, "token_missing")
