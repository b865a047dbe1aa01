"""Conditional GET: an ETag names an answer, and 304 says that it would be the same."""

import pytest

PATHS = ["/user/me", "/models", "/chatroom", "/chatroom?archived=true", "{room}", "{reply}"]


@pytest.fixture
def paths(room):
    """Return the paths that have an ETag, in a room whose only reply is queued."""
    reply_id = room.send("Hello")
    reply = f"{room.path}/messages/{reply_id}"
    return {path: path.format(room=room.path, reply=reply) for path in PATHS}


@pytest.mark.parametrize("path", PATHS)
def test_a_known_etag_is_answered_304_without_a_body_while_nothing_changes(room, paths, path):
    address = paths[path]
    first = room.person.get(address)
    etag = first.headers["ETag"]
    assert etag.startswith('"')  # a strong one
    assert first.headers["Cache-Control"] == "no-store"  # this is for caches; a program may keep the answer
    for known in (etag, f'"another", {etag}', f"W/{etag}", "*"):
        again = room.person.get(address, headers={"If-None-Match": known})
        assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", etag)
        assert "Content-Type" not in again.headers
    for unknown in ('"another"', "", "nonsense", f'"{etag[1:-2]}"'):
        again = room.person.get(address, headers={"If-None-Match": unknown})
        assert (again.status_code, again.data, again.headers["ETag"]) == (200, first.data, etag)


@pytest.mark.parametrize("path", [*PATHS, "/openapi.json"])
@pytest.mark.parametrize("precondition", ["*", '"another"', "nonsense"])
def test_if_match_is_ignored_when_reading(room, paths, path, precondition):
    assert room.person.get(paths.get(path, path), headers={"If-Match": precondition}).status_code == 200


@pytest.mark.parametrize("path", [*PATHS, "/openapi.json"])
def test_if_modified_since_is_ignored_even_with_a_date_that_cannot_be_read(room, paths, path):
    """Werkzeug's parser raises OverflowError for such numbers."""
    headers = {"If-Modified-Since": f"Sat, {'9' * 30} Nov 2026 00:00:00 GMT"}
    assert room.person.get(paths.get(path, path), headers=headers).status_code == 200


def test_each_visible_change_has_another_etag(room, runner, paths):
    """Whatever reads differently than before has another ETag."""

    def changed(*names):
        nonlocal known
        now = {path: room.person.get(address).headers["ETag"] for path, address in paths.items()}
        different = {path for path in PATHS if now[path] != known[path]}
        known = now
        return different == set(names)

    known = {path: room.person.get(address).headers["ETag"] for path, address in paths.items()}
    assert changed()
    reply_id = paths["{reply}"].rsplit("/", 1)[1]
    room.generate(runner, reply_id)
    assert changed("{room}", "{reply}")
    assert room.person.patch(room.path, json={"title": "Another"}).status_code == 200
    assert changed("{room}", "/chatroom")
    assert room.person.patch("/user/me", json={"name": "Ada"}).status_code == 200
    assert changed("/user/me")
    new = room.person.post(f"{paths['{reply}']}/retry")
    assert new.status_code == 202
    assert changed("{room}", "{reply}")
    assert room.person.patch(room.path, json={"archived": True}).status_code == 200
    assert changed("{room}", "/chatroom", "/chatroom?archived=true")


def test_a_deleted_room_is_404_whatever_etag_the_client_sends(room, paths):
    etag = room.person.get(room.path).headers["ETag"]
    assert room.person.delete(room.path).status_code == 204
    for known in (etag, "*"):
        assert room.person.get(room.path, headers={"If-None-Match": known}).status_code == 404


def test_an_etag_gives_nobody_else_access(room, paths, make_user):
    etag = room.person.get(room.path).headers["ETag"]
    assert make_user().get(room.path, headers={"If-None-Match": etag}).status_code == 404
    assert room.app.test_client().get(room.path, headers={"If-None-Match": etag}).status_code == 401


def test_a_change_that_nobody_sees_keeps_the_etag(room, paths):
    """For example, the lease of a reply in progress is renewed again and again."""
    before = {path: room.person.get(address).headers["ETag"] for path, address in paths.items()}
    room.sql("UPDATE messages SET enqueued_at = now(), not_before = now(), failures = 1 WHERE role = 'model'")
    assert {path: room.person.get(address).headers["ETag"] for path, address in paths.items()} == before
