"""Conditional GET: an ETag names an answer, and 304 says that it would be the same."""

import pytest

PATHS = ["/user/me", "/models", "/chatroom", "/chatroom?archived=true", "{room}", "{reply}"]


@pytest.fixture
def paths(room):
    """The addresses that have an ETag, of a room whose only reply is queued."""
    reply_id = room.send("Hello")
    reply = f"{room.path}/messages/{reply_id}"
    return {path: path.format(room=room.path, reply=reply) for path in PATHS}


@pytest.mark.parametrize("path", PATHS)
def test_an_etag_brings_304_without_a_body_while_nothing_changes(room, paths, path):
    address = paths[path]
    first = room.person.get(address)
    etag = first.headers["ETag"]
    assert etag.startswith('"')  # a strong one
    assert first.headers["Cache-Control"] == "no-store"  # for caches; a program may keep it
    for known in (etag, f'"another", {etag}', f"W/{etag}", "*"):
        again = room.person.get(address, headers={"If-None-Match": known})
        assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", etag)
        assert "Content-Type" not in again.headers
    for unknown in ('"another"', "", "nonsense", f'"{etag[1:-2]}"'):
        again = room.person.get(address, headers={"If-None-Match": unknown})
        assert (again.status_code, again.data, again.headers["ETag"]) == (200, first.data, etag)


@pytest.mark.parametrize("path", [*PATHS, "/openapi.json"])
@pytest.mark.parametrize("precondition", ["*", '"another"', "nonsense"])
def test_if_match_is_for_changes_and_reading_makes_none(room, paths, path, precondition):
    assert room.person.get(paths.get(path, path), headers={"If-Match": precondition}).status_code == 200


def test_each_change_is_seen(room, runner, paths):
    """Whatever can be read differently than before has another ETag."""

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


def test_what_is_gone_is_404_whatever_the_client_has(room, paths):
    etag = room.person.get(room.path).headers["ETag"]
    assert room.person.delete(room.path).status_code == 204
    for known in (etag, "*"):
        assert room.person.get(room.path, headers={"If-None-Match": known}).status_code == 404


def test_nobody_elses_etag_opens_anything(room, paths, make_user):
    etag = room.person.get(room.path).headers["ETag"]
    assert make_user().get(room.path, headers={"If-None-Match": etag}).status_code == 404
    assert room.app.test_client().get(room.path, headers={"If-None-Match": etag}).status_code == 401


def test_what_nobody_sees_changes_no_etag(room, paths):
    """Such as the lease of a reply that is generated, which is renewed again and again."""
    before = {path: room.person.get(address).headers["ETag"] for path, address in paths.items()}
    room.sql("UPDATE messages SET enqueued_at = now(), not_before = now(), failures = 1 WHERE role = 'model'")
    assert {path: room.person.get(address).headers["ETag"] for path, address in paths.items()} == before
