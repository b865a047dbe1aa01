"""Whatever goes wrong, the answer is one kind of document with one kind of headers."""

import uuid

import pytest
from sqlalchemy import event

from app.core.db import db
from tests.problems import assert_problem

MALFORMED_IDS = [
    "1",
    "abc",
    "null",
    "0192d3a4",
    "0192d3a45b6c7d8e9f0123456789abcd",
    "{0192d3a4-5b6c-7d8e-9f01-23456789abcd}",
    "urn:uuid:0192d3a4-5b6c-7d8e-9f01-23456789abcd",
    "0192d3a4-5b6c-7d8e-9f01-23456789abcg",
    "0192d3a4-5b6c-7d8e-9f01-23456789abcd%00",
    "%00",
    "%FF%FE",
    "%F0%9F%92%A9",
    "' OR 1=1 --",
    "٠١٩٢d3a4-5b6c-7d8e-9f01-23456789abcd",
    "0192d3a4-5b6c-7d8e-9f01-23456789abcd%0A",
    "9" * 5000,
]


@pytest.mark.parametrize("path", ["/nothing", "/chatroom/", "/auth", "/docs/nothing", "/%00", "/%FF", "/" + "a" * 5000])
def test_unknown_address_is_404(client, path):
    assert_problem(client.get(path), 404, "not_found")


@pytest.mark.parametrize("malformed", MALFORMED_IDS)
def test_malformed_id_is_404(user, malformed):
    assert_problem(user.get(f"/chatroom/{malformed}"), 404, "not_found")
    assert_problem(user.post(f"/chatroom/{malformed}/message", json={"text": "Hello"}), 404, "not_found")
    assert_problem(user.get(f"/chatroom/{uuid.uuid4()}/messages/{malformed}"), 404, "not_found")


def test_an_id_of_somebody_else_and_one_of_nobody_get_the_same_answer(user, make_user):
    elsewhere = make_user().make_chatroom()
    addresses = [elsewhere, f"/chatroom/{uuid.uuid4()}", "/chatroom/abc", "/nothing"]
    answers = [assert_problem(user.get(address), 404, "not_found") for address in addresses]
    assert {answer["detail"] for answer in answers} == {"There is nothing at this address, or it is not yours."}


def test_id_in_capitals_is_the_same_id(user):
    room = user.make_chatroom()
    prefix, room_id = room.rsplit("/", 1)
    assert user.get(f"{prefix}/{room_id.upper()}").json["id"] == room_id


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/chatroom", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("DELETE", "/chatroom", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("PUT", "/chatroom/0192d3a4-5b6c-7d8e-9f01-23456789abcd", {"GET", "HEAD", "OPTIONS", "PATCH", "DELETE"}),
        ("GET", "/auth/signup", {"OPTIONS", "POST"}),
        ("POST", "/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/docs", {"GET", "HEAD", "OPTIONS"}),
        ("BREW", "/chatroom", {"GET", "HEAD", "OPTIONS", "POST"}),
    ],
)
def test_unknown_method_is_405_and_names_the_known_ones(client, method, path, allowed):
    response = client.open(path, method=method)
    assert_problem(response, 405, "method_not_allowed")
    assert set(response.headers["Allow"].replace(" ", "").split(",")) == allowed


@pytest.fixture
def broken_machinery(app):
    """Make every statement about chatrooms fail with an unexpected error. Yields what ends that."""

    def break_down(_connection, _cursor, statement, *_):
        if "chatrooms" in statement:
            raise KeyError("a secret of the machinery")

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", break_down)
    yield lambda: event.remove(engine, "before_cursor_execute", break_down)
    if event.contains(engine, "before_cursor_execute", break_down):
        event.remove(engine, "before_cursor_execute", break_down)


def test_unexpected_exception_is_500_without_details(user, broken_machinery, caplog):
    response = user.post("/chatroom", json={"title": "A room"})
    assert_problem(response, 500, "internal_error")
    assert "secret" not in response.text
    assert "a secret of the machinery" in caplog.text


def test_unexpected_exception_leaves_the_next_request_unharmed(user, broken_machinery):
    assert_problem(user.get("/chatroom"), 500, "internal_error")
    broken_machinery()
    assert user.get("/chatroom").status_code == 200


@pytest.mark.parametrize("sane", ["a", "my-request.1_2", "A" * 128])
def test_a_valid_request_id_is_sent_back(client, sane):
    assert client.get("/healthz", headers={"X-Request-ID": sane}).headers["X-Request-ID"] == sane
    assert (
        assert_problem(client.get("/nothing", headers={"X-Request-ID": sane}), 404, "not_found")["request_id"] == sane
    )


@pytest.mark.parametrize("insane", ["", "two words", "A" * 129, "ümlaut", '"quoted"', "<script>", "a,b", "a/b", "a\tb"])
def test_other_request_ids_are_replaced_by_a_fresh_one(client, insane):
    given = client.get("/healthz", headers={"X-Request-ID": insane}).headers["X-Request-ID"]
    assert given != insane
    assert uuid.UUID(given).version == 7


def test_every_request_gets_an_id_of_its_own(client):
    ids = {client.get("/nothing").headers["X-Request-ID"] for _ in range(10)}
    assert len(ids) == 10


@pytest.mark.parametrize("path", ["/healthz", "/nothing", "/chatroom", "/docs", "/openapi.json", "/"])
def test_every_answer_has_the_security_headers(client, path):
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"]
    assert "Werkzeug" not in headers.get("Server", "")


def test_answers_about_people_are_not_stored_by_caches(user):
    for response in (user.get("/user/me"), user.get("/chatroom"), user.get("/user/usage")):
        assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/healthz", "/docs", "/openapi.json"])
def test_head_answers_like_get_without_a_body(client, path):
    head = client.head(path)
    assert head.status_code == client.get(path).status_code == 200
    assert head.data == b""


def test_head_needs_the_token_that_get_needs(client, user):
    assert client.head("/chatroom").status_code == 401
    assert user.call("HEAD", "/chatroom").status_code == 200
    assert user.call("HEAD", "/chatroom/nothing").status_code == 404


def test_options_names_the_methods_of_an_address(client):
    response = client.options("/chatroom")
    assert response.status_code == 200
    assert response.data == b""
    assert {"GET", "POST"} <= set(response.headers["Allow"].replace(" ", "").split(","))
    assert_problem(client.options("/nothing"), 404, "not_found")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("//chatroom", 401, "token_missing"),
        ("//chatroom.example/", 404, "not_found"),
        ("/chatroom//", 404, "not_found"),
        ("/./chatroom", 404, "not_found"),
        ("/../../etc/passwd", 404, "not_found"),
    ],
)
def test_odd_spellings_of_an_address_are_not_redirected(client, path, status, code):
    response = client.get("/", environ_overrides={"PATH_INFO": path})  # a URL would name `chatroom` as the host
    assert_problem(response, status, code)
    assert "Location" not in response.headers
