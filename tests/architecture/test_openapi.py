"""The API's description is valid, complete, and true to its own schemas."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

METHODS = {"get", "post", "put", "patch", "delete"}
# What ECMA-262 does not know, or reads differently from Python: \A \Z, (?P<…>), (?i) at the front, (?<=…) is fine.
NOT_ECMA_262 = re.compile(r"\\A|\\Z|\(\?P[<=]|\(\?[aiLmsux]+[):]|\(\?#|\(\?\(")
# The routes that are not the API: the docs page and what it loads.
OUTSIDE = {"/", "/docs", "/docs/assets/<path:name>", "/docs/page/<path:filename>", "/openapi.json"}


class Operation(NamedTuple):
    """One method of one address, as described."""

    method: str
    path: str
    description: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path}"


@pytest.fixture(scope="module")
def description(migrated_app) -> dict[str, Any]:
    return migrated_app.test_client().get("/openapi.json").get_json()


@pytest.fixture(scope="module")
def operations(description) -> list[Operation]:
    return [
        Operation(method, path, operation)
        for path, item in description["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def walk(value: Any) -> Iterator[Any]:
    """Yield every object inside a document."""
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from walk(child)
    elif isinstance(value, list):
        for child in value:
            yield from walk(child)


def examples(media: dict[str, Any]) -> list[Any]:
    if "example" in media:
        return [media["example"]]
    return [example["value"] for example in media.get("examples", {}).values()]


def validator(schema: dict[str, Any], description: dict[str, Any]) -> Draft202012Validator:
    """Checks values against a schema that refers into the description."""
    resource = Resource(description, DRAFT202012)  # type: ignore[call-arg]
    pointed = {"$ref": "urn:description" + schema["$ref"]} if "$ref" in schema else schema
    registry = Registry().with_resource("urn:description", resource)
    return Draft202012Validator(pointed, registry=registry, format_checker=FormatChecker())


def test_description_is_valid_openapi_3_1(description):
    assert description["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(description).validate()


@pytest.mark.parametrize(
    "route",
    [
        "POST /auth/signup",
        "POST /auth/send-otp",
        "POST /auth/verify-otp",
        "POST /chatroom",
        "POST /chatroom/{chatroom_id}/message",
        "GET /chatroom/{chatroom_id}/messages/{message_id}/stream",
        "POST /chatroom/{chatroom_id}/messages/{message_id}/cancel",
        "POST /chatroom/{chatroom_id}/messages/{message_id}/retry",
        "POST /chatroom/{chatroom_id}/messages/{message_id}/edit",
        "GET /user/usage",
        "POST /subscribe/pro",
        "GET /subscription/status",
        "POST /subscription/portal",
        "POST /webhook/stripe",
    ],
)
def test_introduction_leads_to_the_main_routes(description, operations, route):
    assert route in map(str, operations)
    shortened = route.replace("/chatroom/{chatroom_id}/messages/{message_id}", "…")
    assert f"`{shortened}`" in description["info"]["description"]


def test_introduction_names_every_event_of_a_stream_and_every_end_of_a_reply(description):
    introduction = description["info"]["description"]
    named = {"status", "delta", "reset", "completed", "failed", "canceled", "reconnect"}
    assert [name for name in sorted(named) if f"`{name}`" not in introduction] == []
    assert "`Last-Event-ID`" in introduction
    assert "`stream: true`" in introduction


def test_every_route_is_described(migrated_app, description):
    served = {
        (method.lower(), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in migrated_app.url_map.iter_rules()
        if rule.rule not in OUTSIDE
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    described = {(method, path) for path, item in description["paths"].items() for method in item if method in METHODS}
    assert served == described


def test_every_operation_has_a_summary_and_a_known_tag(operations, description):
    tags = {tag["name"]: tag for tag in description["tags"]}
    for operation in operations:
        assert operation.description.get("summary"), operation
        assert not operation.description["summary"].endswith("."), operation
        assert operation.description.get("tags"), operation
        assert set(operation.description["tags"]) <= set(tags), operation
    assert all(tag.get("description") for tag in tags.values())


def test_every_operation_has_a_stable_readable_id_of_its_own(operations):
    ids = [operation.description.get("operationId", "") for operation in operations]
    for operation, name in zip(operations, ids, strict=True):
        assert re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", name), (str(operation), name)
    assert len(set(ids)) == len(ids)


def test_every_operation_declares_who_may_call_it(migrated_app, description):
    for rule in migrated_app.url_map.iter_rules():
        if rule.rule in OUTSIDE:
            continue
        contract = migrated_app.view_functions[rule.endpoint]._apidoc.get("contract", {})
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            assert contract.get("auth") in {"public", "accessToken", "refreshToken"}, rule
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
            security = description["paths"][path][method.lower()].get("security")
            scope = [{"apiKey": [contract["scope"]]}] if contract.get("scope") else []
            expected = [] if contract["auth"] == "public" else [{contract["auth"]: []}, *scope]
            assert security == expected, rule


def test_every_operation_documents_500_and_503_and_every_protected_one_401(operations):
    for operation in operations:
        responses = operation.description["responses"]
        assert {"500", "503"} <= set(responses), operation
        assert ("401" in responses) or not operation.description.get("security"), operation
        for media in operation.description.get("requestBody", {}).get("content", {}).values():
            # A body without one of our schemas is read raw, as a webhook's is.
            assert ({"400", "413", "415", "422"} if "$ref" in media["schema"] else {"400", "413"}) <= set(responses)
        if any(parameter["in"] == "query" for parameter in operation.description.get("parameters", [])):
            assert "422" in responses, operation
        if "{" in operation.path:
            assert "404" in responses, operation


def test_only_operations_without_any_limit_document_no_429(operations):
    unlimited = {str(operation) for operation in operations if "429" not in operation.description["responses"]}
    assert unlimited == {"GET /healthz", "GET /readyz", "GET /metrics", "POST /webhook/stripe"}


def test_every_success_has_an_example_that_fits_its_schema(operations, description):
    for operation in operations:
        successes = {
            status: response
            for status, response in operation.description["responses"].items()
            if status.startswith("2")
        }
        assert successes, operation
        for status, response in successes.items():
            assert response.get("description"), operation
            if status == "204":
                assert "content" not in response, operation
                continue
            for kind, media in response["content"].items():
                shown = examples(media)
                assert shown, f"{operation}: no example for {status}"
                for example in shown:
                    if kind == "application/json" and "schema" in media:
                        validator(media["schema"], description).validate(example)


def test_every_request_body_has_an_example_that_fits_its_schema(operations, description):
    for operation in operations:
        for media in operation.description.get("requestBody", {}).get("content", {}).values():
            shown = examples(media)
            assert shown, f"{operation}: no example of a body"
            for example in shown:
                assert example, operation
                validator(media["schema"], description).validate(example)


def test_every_error_has_an_example_that_fits_its_schema(operations, description):
    for operation in operations:
        for status, response in operation.description["responses"].items():
            if int(status) < 400:
                continue
            media = response["content"]["application/problem+json"]
            assert examples(media), f"{operation}: {status}"
            for example in examples(media):
                validator(media["schema"], description).validate(example)
                assert example["status"] == int(status)
                assert f"`{example['code']}`" in response["description"]


def headers_of(operations, status) -> dict[str, set[str]]:
    """Return the header names of each operation's answer with this status."""
    answers = [(str(operation), operation.description["responses"].get(status)) for operation in operations]
    return {name: set(answer.get("headers", {})) for name, answer in answers if answer}


def test_errors_and_304_document_the_headers_that_come_with_them(operations):
    for status, names in {"304": {"ETag"}, "401": {"WWW-Authenticate"}, "503": {"Retry-After"}}.items():
        found = headers_of(operations, status)
        assert found
        assert all(headers == names for headers in found.values()), status
    send = "POST /chatroom/{chatroom_id}/message"
    assert headers_of(operations, "403")[send] == {"WWW-Authenticate"}
    limited = headers_of(operations, "429")
    assert limited["GET /user/me"] == {"Retry-After"}
    counts = {"RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"}
    assert limited[send] == {"Retry-After", "RateLimit", "RateLimit-Policy", *counts}
    assert not any(headers_of(operations, "404").values())


def test_preference_applied_is_documented_for_200_and_not_for_202(operations):
    send = "POST /chatroom/{chatroom_id}/message"
    assert "Preference-Applied" in headers_of(operations, "200")[send]
    assert "Preference-Applied" not in headers_of(operations, "202")[send]


def test_no_parameter_is_nullable(operations):
    for operation in operations:
        for parameter in operation.description.get("parameters", []):
            schema = parameter["schema"]
            assert isinstance(schema["type"], str), (str(operation), parameter["name"])
            assert schema.get("default", "") is not None, (str(operation), parameter["name"])


def test_a_stream_that_is_tried_out_shows_the_whole_text(operations):
    """The docs page fills in the example of a parameter and sends it."""
    (follow,) = (operation.description for operation in operations if operation.path.endswith("/stream"))
    (resume,) = (parameter for parameter in follow["parameters"] if parameter["name"] == "Last-Event-ID")
    assert not [value for value in (resume.get("example"), resume["schema"].get("example")) if value]


@pytest.mark.parametrize(
    ("field", "wrong", "right"),
    [
        ("ChatroomChangesIn", {}, {"pinned": True}),
        ("FoundOut/properties/highlights", [[1]], [[1, 2]]),
        ("Problem/properties/errors", {"text": "No."}, {"text": ["No."], "scopes": {"0": ["No."]}}),
    ],
)
def test_schemas_refuse_values_that_the_api_never_sends(description, field, wrong, right):
    fits = validator({"$ref": f"#/components/schemas/{field}"}, description)
    assert fits.is_valid(right)
    assert not fits.is_valid(wrong)


def test_urls_have_the_format_uri(description):
    for name in ("CheckoutOut", "PortalOut"):
        assert description["components"]["schemas"][name]["properties"]["url"]["format"] == "uri"


def test_every_schema_is_used(description):
    used = {part["$ref"].rsplit("/", 1)[1] for part in walk(description) if "$ref" in part}
    assert set(description["components"]["schemas"]) - used <= {"StreamEvent"}  # the description of the stream names it


def test_the_last_event_of_the_example_is_complete(description):
    path = "/chatroom/{chatroom_id}/messages/{message_id}/stream"
    stream = description["paths"][path]["get"]["responses"]["200"]["content"]["text/event-stream"]
    assert stream["example"].endswith("\n\n")


def test_every_example_of_a_field_fits_it(description):
    for name, schema in description["components"]["schemas"].items():
        for field, facts in schema.get("properties", {}).items():
            if "example" in facts:
                fits = validator({"$ref": f"#/components/schemas/{name}/properties/{field}"}, description)
                assert fits.is_valid(facts["example"]), f"{name}.{field}"


def test_every_field_and_parameter_is_described(operations, description):
    for name, schema in description["components"]["schemas"].items():
        for field, facts in schema.get("properties", {}).items():
            assert "description" in facts or "$ref" in facts or facts.get("type") == "array", f"{name}.{field}"
    for operation in operations:
        for parameter in operation.description.get("parameters", []):
            assert parameter["in"] == "path" or parameter.get("description"), (str(operation), parameter["name"])


def test_patterns_are_valid_in_javascript_too(description):
    patterns = [part["pattern"] for part in walk(description) if isinstance(part.get("pattern"), str)]
    for pattern in patterns:
        re.compile(pattern)
        assert not NOT_ECMA_262.search(pattern), pattern
        assert pattern.isprintable(), pattern


def test_request_schemas_refuse_unknown_fields(operations, description):
    for operation in operations:
        for media in operation.description.get("requestBody", {}).get("content", {}).values():
            if "$ref" in media.get("schema", {}):
                schema = description["components"]["schemas"][media["schema"]["$ref"].rsplit("/", 1)[1]]
                assert schema.get("additionalProperties") is False, operation


def test_response_schemas_leave_room_for_new_fields(description):
    """Strict generated clients refuse a field that `additionalProperties: false` does not know."""
    closed = [
        name
        for name, schema in description["components"]["schemas"].items()
        if schema.get("additionalProperties") is False
    ]
    assert closed
    assert [name for name in closed if not name.endswith("In")] == []


def test_every_enumeration_has_a_type(description):
    """Generators for Java and Go read one without a type as any value."""
    assert [part for part in walk(description) if isinstance(part.get("enum"), list) and "type" not in part] == []


def test_security_schemes_are_bearer_tokens(description):
    schemes = description["components"]["securitySchemes"]
    assert set(schemes) == {"accessToken", "apiKey", "refreshToken"}
    assert all((scheme["type"], scheme["scheme"]) == ("http", "bearer") for scheme in schemes.values())
