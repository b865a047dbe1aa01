"""The Postman collection tells the whole story: every route is called, and a reply is followed while it is written."""

import json
from typing import Any

import pytest

from sandbox.postman import FOLDER, files, operations_of


@pytest.fixture(scope="module")
def requests() -> list[dict[str, Any]]:
    collection = json.loads((FOLDER / "gemini-backend.postman_collection.json").read_text())
    return [item for folder in collection["item"] for item in folder["item"]]


def call(item: dict[str, Any]) -> str:
    """`POST /chatroom/{chatroom_id}/message`, as the API's description has it."""
    path = item["request"]["url"]["raw"].removeprefix("{{base_url}}").partition("?")[0]
    return f"{item['request']['method']} {path.replace('{{', '{').replace('}}', '}')}"


def script(item: dict[str, Any]) -> str:
    return "\n".join(line for event in item["event"] for line in event["script"]["exec"])


def test_the_files_are_what_the_description_makes_them():
    old = [path.name for path, text in files().items() if path.read_text() != text]
    assert not old, f"run `make postman`, which writes {old}"


def test_every_route_is_called(requests, app):
    description = app.test_client().get("/openapi.json").get_json()
    uncalled = set(operations_of(description)) - {call(item) for item in requests}
    assert not uncalled, f"give {uncalled} a Step of STORY in sandbox/postman_story.py, then run `make postman`"


def test_a_reply_is_followed_while_it_is_written(requests):
    calls = [call(item) for item in requests]
    follows = calls.index("GET /chatroom/{chatroom_id}/messages/{message_id}/stream")
    sends = requests[follows - 1]
    assert calls[follows - 1] == "POST /chatroom/{chatroom_id}/message"
    assert json.loads(sends["request"]["body"]["raw"])["stream"] is True
    assert "Prefer" not in {header["key"] for header in sends["request"]["header"]}
    assert 'environment.set("message_id"' in script(sends)
    assert "event: completed" in script(requests[follows])
