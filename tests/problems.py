"""What every error answer must look like."""

import json
import re

import requests
from werkzeug.test import TestResponse

FIELDS = {"type", "title", "status", "detail", "code", "request_id"}
# Internal words, which no client may read.
LEAKS = re.compile(
    r"Traceback|psycopg|sqlalchemy|SELECT |INSERT |redis\.[a-z]|File \"|line \d+|marshmallow|werkzeug", re.I
)


def assert_problem(response: TestResponse | requests.Response, status: int, code: str) -> dict:
    """Assert that the response is a problem document (RFC 9457) with this status and code. Returns its body."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    body = json.loads(response.text)
    assert body["code"] == code, body
    assert set(body) == (FIELDS | {"errors"} if code == "validation_error" else FIELDS)
    assert body["type"] == "about:blank"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert not LEAKS.search(response.text), response.text
    if status == 401:
        assert response.headers["WWW-Authenticate"]
    if status == 405:
        assert response.headers["Allow"]
    if status in {429, 503}:
        assert int(response.headers["Retry-After"]) >= 1
    if code == "validation_error":
        assert body["errors"]
    return body
