"""Every route with an id in it, called with somebody else's token and with none."""

import re
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from flask import Flask
from uuid_utils.compat import uuid7
from werkzeug.routing import Rule, UUIDConverter

from tests.problems import assert_problem

METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}
# Route arguments that name a file of the documentation, which belongs to nobody.
PUBLIC_ARGUMENTS = {("docs.swagger_ui_asset", "name"), ("docs.static", "filename")}


def owned_by(owner: Any) -> dict[str, str]:
    """Return an id of the owner's for every argument that a route has."""
    room = owner.make_chatroom("Private")
    accepted = owner.post(f"{room}/message", json={"text": "A secret"})
    assert accepted.status_code == 202, accepted.text
    return {
        "chatroom_id": room.rsplit("/", 1)[1],
        "message_id": accepted.json["reply"]["id"],
        "key_id": owner.post("/user/api-keys", json={"name": "CI", "scopes": ["chat:read"]}).json["id"],
        "session_id": jwt.decode(owner.access_token, options={"verify_signature": False})["sid"],
    }


def rules_with_ids(app: Flask) -> list[tuple[str, Rule]]:
    """Return every method and rule with the id of somebody's property."""
    found = []
    for rule in app.url_map.iter_rules():
        for name in rule.arguments:
            if (rule.endpoint, name) in PUBLIC_ARGUMENTS:
                break
            converter = rule._converters[name]
            assert isinstance(converter, UUIDConverter), f"{rule.rule}: `{name}` must be an <id:…>"
        else:
            found += [(method, rule) for method in sorted((rule.methods or set()) & METHODS) if rule.arguments]
    return found


@pytest.fixture
def property_of_another(make_user: Callable[..., Any]) -> dict[str, str]:
    return owned_by(make_user())


def address(app: Flask, rule: Rule, values: dict[str, Any]) -> str:
    unknown = rule.arguments - values.keys()
    assert not unknown, f"{rule.rule}: tell `owned_by` how to make a {unknown} that belongs to somebody"
    with app.test_request_context():
        return app.url_map.bind("").build(rule.endpoint, {name: values[name] for name in rule.arguments})


def described_bodies(app: Flask) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the example bodies of the API's description. They are valid, so that only ownership decides."""
    paths, found = app.test_client().get("/openapi.json").get_json()["paths"], {}
    for method, rule in rules_with_ids(app):
        operation = paths[re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)][method.lower()]
        if "requestBody" in operation:
            found[method, rule.rule] = operation["requestBody"]["content"]["application/json"]["example"]
    return found


@pytest.fixture
def body_of(app: Flask) -> Callable[[str, Rule], dict[str, Any]]:
    """Return the keyword arguments for a call's body, if the route takes one."""
    known = described_bodies(app)
    return lambda method, rule: {"json": known[method, rule.rule]} if (method, rule.rule) in known else {}


def test_the_routes_with_ids_are_found(app):
    assert len(rules_with_ids(app)) >= 7


def test_property_of_another_user_is_404_exactly_like_an_unknown_id(app, user, body_of, property_of_another):
    for method, rule in rules_with_ids(app):
        path = address(app, rule, property_of_another)
        nothing = address(app, rule, {name: uuid7() for name in property_of_another})
        sent = body_of(method, rule)
        theirs, missing = user.call(method, path, **sent), user.call(method, nothing, **sent)
        assert theirs.status_code == 404, f"{method} {rule.rule}: {theirs.status_code} {theirs.text}"
        told = assert_problem(theirs, 404, "not_found")
        same = assert_problem(missing, 404, "not_found")
        assert told | {"request_id": ""} == same | {"request_id": ""}
        assert [name for name, _ in theirs.headers] == [name for name, _ in missing.headers]


def test_property_of_a_user_is_401_without_a_token(app, client, body_of, property_of_another):
    for method, rule in rules_with_ids(app):
        path = address(app, rule, property_of_another)
        response = client.open(path, method=method, **body_of(method, rule))
        assert response.status_code == 401, f"{method} {rule.rule}: {response.status_code}"
        assert_problem(response, 401, "token_missing")


def test_refused_requests_change_nothing_of_the_owner(app, user, make_user, body_of):
    owner = make_user()
    values = owned_by(owner)
    before = owner.get(f"/chatroom/{values['chatroom_id']}").json
    for method, rule in rules_with_ids(app):
        user.call(method, address(app, rule, values), **body_of(method, rule))
    after = owner.get(f"/chatroom/{values['chatroom_id']}").json
    assert (after["title"], after["updated_at"]) == (before["title"], before["updated_at"])
    assert [message["id"] for message in after["messages"]] == [message["id"] for message in before["messages"]]
    assert after["messages"][1]["status"] != "canceled"  # a worker may have finished it meanwhile
    assert user.get("/user/usage").json["used"] == 0


def test_a_route_with_an_unknown_kind_of_id_fails_the_tests(app):
    class Stranger:
        rule, arguments = "/invoice/<id:invoice_id>", {"invoice_id"}

    with pytest.raises(AssertionError, match="invoice_id"):
        address(app, Stranger, {"chatroom_id": "x"})
