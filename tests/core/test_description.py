"""/openapi.json is serialized once, compressed once, and not sent again to clients that have it."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from apispec import APISpec
from flask import Flask
from flask.testing import FlaskClient

PATH = "/openapi.json"
GZIPPED: tuple[dict[str, str], ...] = ({"Accept-Encoding": "gzip"}, {})


@pytest.fixture
def client(migrated_app: Flask) -> FlaskClient:
    return migrated_app.test_client()


def test_the_description_is_made_once_when_it_is_asked_for(make_app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    described, to_dict = [], APISpec.to_dict
    monkeypatch.setattr(APISpec, "to_dict", lambda spec: described.append(1) or to_dict(spec))  # type: ignore[func-returns-value]
    app = make_app()
    assert not described
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda gzipped: app.test_client().get(PATH, headers=gzipped), GZIPPED * 8))
    assert len(described) == 1
    assert {answer.status_code for answer in answers} == {200}


def test_two_processes_give_the_description_the_same_etag(make_app: Any) -> None:
    tags = [make_app().test_client().get(PATH, headers={"Accept-Encoding": "gzip"}).headers["ETag"] for _ in range(2)]
    assert tags[0] == tags[1]


def test_the_description_is_compressed_for_clients_that_accept_gzip(client: FlaskClient) -> None:
    plain = client.get(PATH)
    compressed = client.get(PATH, headers={"Accept-Encoding": "br, gzip;q=0.5"})
    assert (plain.status_code, compressed.status_code) == (200, 200)
    assert "Content-Encoding" not in plain.headers
    assert compressed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(compressed.data) == plain.data
    assert len(compressed.data) < len(plain.data) / 5
    for answer in (plain, compressed):
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert answer.headers["Content-Length"] == str(len(answer.data))
        assert answer.headers["Content-Type"] == "application/json"
    assert plain.headers["ETag"] != compressed.headers["ETag"]
    assert json.loads(plain.data)["openapi"] == "3.1.0"


@pytest.mark.parametrize("accepted", ["", "identity", "br", "gzip;q=0", "gzip;q=0, *;q=0.5"])
def test_the_description_is_plain_for_other_clients(client: FlaskClient, accepted: str) -> None:
    answer = client.get(PATH, headers={"Accept-Encoding": accepted})
    assert "Content-Encoding" not in answer.headers
    assert answer.json


@pytest.mark.parametrize("accepted", ["gzip", "identity"])
def test_a_client_that_has_the_description_gets_304_without_a_body(client: FlaskClient, accepted: str) -> None:
    headers = {"Accept-Encoding": accepted}
    first = client.get(PATH, headers=headers)
    assert not first.headers["ETag"].startswith("W/")
    for known in (first.headers["ETag"], f'"another", {first.headers["ETag"]}', "*"):
        again = client.get(PATH, headers=headers | {"If-None-Match": known})
        assert (again.status_code, again.data) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
        assert again.headers["Vary"] == "Accept-Encoding"
        assert again.headers["Cache-Control"] == "no-cache"
        assert "X-Request-ID" in again.headers
    assert client.get(PATH, headers=headers | {"If-None-Match": '"another"'}).status_code == 200


def test_head_gives_the_headers_without_the_description(client: FlaskClient) -> None:
    head, got = client.head(PATH), client.get(PATH)
    assert head.data == b""
    assert {name: head.headers[name] for name in ("ETag", "Content-Length")} == {
        name: got.headers[name] for name in ("ETag", "Content-Length")
    }
