"""The edge: TLS, browsers of other origins, and headers that reveal nothing."""

import socket

import pytest

from app.core.auth import TokenMissing
from tests.problems import assert_problem
from tests.web_process import serving

ORIGIN = "https://app.example.com"
ROUTES = ["/healthz", "/docs", "/docs/assets/swagger-ui.css", "/openapi.json", "/user/me", "/nowhere"]


@pytest.fixture(scope="module")
def web(environment, migrated_app, tmp_path_factory):
    own = environment | {"TRUSTED_PROXIES": "1", "CORS_ORIGINS": ORIGIN, "RATE_LIMIT_PER_MINUTE": "100"}
    with serving(own, tmp_path_factory.mktemp("edge") / "web.log") as process:
        yield process


@pytest.mark.parametrize("path", ROUTES)
def test_answers_have_no_banner_and_no_cookie(web, path):
    response = web.call("GET", path)
    assert "Server" not in response.headers
    assert "Set-Cookie" not in response.headers
    assert "X-Powered-By" not in response.headers


def test_hsts_is_sent_when_the_proxy_reports_tls(web):
    secure = web.call("GET", "/healthz", headers={"X-Forwarded-Proto": "https"})
    assert secure.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert "Strict-Transport-Security" not in web.call("GET", "/healthz").headers


def test_a_client_cannot_claim_tls_without_a_trusted_proxy(client):
    response = client.get("/healthz", headers={"X-Forwarded-Proto": "https"})
    assert "Strict-Transport-Security" not in response.headers


def test_a_client_cannot_claim_tls_or_another_path_through_a_unix_socket(own_environment, app, tmp_path):
    """gunicorn trusts every client of a unix socket, whatever its own settings of trusted addresses say."""
    path = tmp_path / "web.sock"
    request = (
        b"GET /docs HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Forwarded-Proto: https\r\nSCRIPT_NAME: /other\r\n\r\n"
    )
    with (
        serving(own_environment, tmp_path / "web.log", unix_socket=path),
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.connect(str(path))
        connection.sendall(request)
        with connection.makefile("rb") as answer:
            head, _, _ = answer.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"Strict-Transport-Security" not in head


def test_a_session_shows_the_address_that_the_proxy_saw(web, mobile_numbers, app):
    forwarded = {"X-Forwarded-For": "192.0.2.66, 198.51.100.4"}
    mobile = next(mobile_numbers)
    web.call("POST", "/auth/signup", json={"mobile": mobile})
    otp = web.call("POST", "/auth/send-otp", json={"mobile": mobile}).json()["otp"]
    tokens = web.call("POST", "/auth/verify-otp", json={"mobile": mobile, "otp": otp}, headers=forwarded).json()
    (session,) = web.call("GET", "/auth/sessions", token=tokens["access_token"]).json()["items"]
    assert session["ip"] == "198.51.100.4"


def test_a_session_shows_the_peers_address_without_a_proxy(client, mobile_numbers):
    forwarded = {"X-Forwarded-For": "192.0.2.66", "Forwarded": "for=192.0.2.66", "X-Real-IP": "192.0.2.66"}
    mobile = next(mobile_numbers)
    client.post("/auth/signup", json={"mobile": mobile})
    otp = client.post("/auth/send-otp", json={"mobile": mobile}).json["otp"]
    tokens = client.post("/auth/verify-otp", json={"mobile": mobile, "otp": otp}, headers=forwarded).json
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert client.get("/auth/sessions", headers=headers).json["items"][0]["ip"] == "127.0.0.1"


def test_pages_of_a_named_origin_may_call_the_api(web):
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, idempotency-key, prefer, traceparent",
    }
    answer = web.call("OPTIONS", "/chatroom", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    allowed = answer.headers["Access-Control-Allow-Headers"].lower()
    assert all(
        name in allowed for name in ("authorization", "content-type", "idempotency-key", "prefer", "traceparent")
    )
    refused = web.call("GET", "/user/me", headers={"Origin": ORIGIN})
    assert refused.status_code == TokenMissing.status
    assert refused.headers["Access-Control-Allow-Origin"] == ORIGIN, "a page may read errors too"
    assert "Access-Control-Allow-Credentials" not in refused.headers


@pytest.mark.parametrize("path", ["/chatroom/undefined", "/chatroom/undefined/messages", "/nowhere"])
def test_pages_may_read_that_an_address_does_not_exist(web, path):
    """After a preflight that fails, a browser never sends the request, and reports a network error."""
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    preflight = web.call("OPTIONS", path, headers=asked | {"Origin": ORIGIN})
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)
    assert preflight.headers["Access-Control-Allow-Headers"] == "authorization"
    answer = web.call("GET", path, headers={"Origin": ORIGIN})
    assert_problem(answer, 404, "not_found")
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN


def test_only_a_preflight_of_a_named_origin_finds_an_address_that_does_not_exist(web):
    asked = {"Access-Control-Request-Method": "GET"}
    other = web.call("OPTIONS", "/nowhere", headers=asked | {"Origin": "https://evil.example.com"})
    assert "Access-Control-Allow-Origin" not in other.headers
    assert_problem(web.call("OPTIONS", "/nowhere"), 404, "not_found")


def test_pages_may_read_every_header(web):
    """`*` means all of them where no request may carry cookies (Fetch standard, main fetch)."""
    answer = web.call("GET", "/healthz", headers={"Origin": ORIGIN})
    assert answer.headers["Access-Control-Expose-Headers"] == "*"
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("origin", ["https://evil.example.com", "https://app.example.com.evil.net", "null"])
def test_pages_of_other_origins_may_not_call_the_api(web, origin):
    for method in ("GET", "OPTIONS"):
        answer = web.call(method, "/user/me", headers={"Origin": origin, "Access-Control-Request-Method": "GET"})
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_without_origins_cors_is_off(client):
    answer = client.get("/user/me", headers={"Origin": ORIGIN})
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


def test_large_body_is_refused(client):
    too_large = b'{"mobile": "' + b"1" * 128 * 1024 + b'"}'
    assert_problem(client.post("/auth/signup", data=too_large, content_type="application/json"), 413, "body_too_large")
