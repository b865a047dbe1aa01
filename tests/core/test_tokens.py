"""Bad bearer tokens: each kind gets its code and a challenge."""

import base64
import json
from datetime import timedelta

import jwt
import pytest
from flask import Flask
from flask_jwt_extended import create_access_token, create_refresh_token

from app.core.auth import TokenError, register_auth
from app.core.clock import utc_now
from app.core.db import db
from tests.problems import assert_problem

PROTECTED = [("GET", "/chatroom"), ("POST", "/chatroom"), ("GET", "/user/me"), ("GET", "/user/usage")]


def call_with(client, authorization, method="GET", path="/user/me"):
    return client.open(path, method=method, headers={"Authorization": authorization})


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_a_request_without_a_token_is_401_token_missing(client, method, path):
    response = client.open(path, method=method)
    assert_problem(response, 401, "token_missing")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="api"'


@pytest.mark.parametrize("authorization", ["", "Basic YTpi", "Token abc", "abc", "bearer", "Digest x"])
def test_a_token_of_another_scheme_is_401(client, authorization):
    response = call_with(client, authorization)
    assert response.json["code"] in {"token_missing", "token_invalid"}
    assert_problem(response, 401, response.json["code"])


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer"])
def test_the_scheme_may_be_spelled_in_any_case(client, user, scheme):
    assert call_with(client, f"{scheme} {user.access_token}").status_code == 200


def test_more_than_one_space_may_follow_the_scheme(client, user):
    assert call_with(client, f"Bearer  {user.access_token}").status_code == 200


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "a.b.c",
        "..",
        "...",
        "null",
        "undefined",
        "a b",
        "é.é.é",
        "eyJhbGciOiJIUzI1NiJ9.e30.",
        "%00",
        "'; DROP TABLE users",
        "A" * 8000,
    ],
)
def test_garbage_is_token_invalid(client, token):
    response = call_with(client, f"Bearer {token}".encode().decode("latin-1"))
    assert_problem(response, 401, "token_invalid")
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]


def test_token_signed_with_another_secret_is_invalid(client, user):
    claims = jwt.decode(user.access_token, options={"verify_signature": False})
    assert_problem(call_with(client, f"Bearer {jwt.encode(claims, 'x' * 40, 'HS256')}"), 401, "token_invalid")


@pytest.mark.filterwarnings("ignore:The HMAC key is")
def test_token_of_another_algorithm_is_invalid_even_under_our_secret(app, client, user):
    claims = jwt.decode(user.access_token, options={"verify_signature": False})
    headers = {"kid": jwt.get_unverified_header(user.access_token).get("kid")}
    secret = app.extensions["settings"].jwt_secret
    assert call_with(client, f"Bearer {jwt.encode(claims, secret, 'HS256', headers)}").status_code == 200
    for algorithm in ("HS384", "HS512"):
        token = jwt.encode(claims, secret, algorithm, headers)
        assert_problem(call_with(client, f"Bearer {token}"), 401, "token_invalid")


def test_token_without_a_signature_is_invalid(client, user):
    _, claims, _ = user.access_token.split(".")
    header = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).decode().rstrip("=")
    assert_problem(call_with(client, f"Bearer {header}.{claims}."), 401, "token_invalid")


def test_token_with_other_claims_under_the_old_signature_is_invalid(client, user, make_user):
    header, _, signature = user.access_token.split(".")
    claims = make_user().access_token.split(".")[1]
    assert_problem(call_with(client, f"Bearer {header}.{claims}.{signature}"), 401, "token_invalid")


def test_refresh_token_opens_no_route(client, user):
    for method, path in PROTECTED:
        assert_problem(call_with(client, f"Bearer {user.refresh_token}", method, path), 401, "token_invalid")


def test_token_past_its_time_is_token_expired(app, client, user):
    claims = jwt.decode(user.access_token, options={"verify_signature": False})
    with app.app_context():
        token = create_access_token(
            user.id, expires_delta=timedelta(seconds=-1), additional_claims={"sid": claims["sid"]}
        )
        refresh = create_refresh_token(
            user.id, expires_delta=timedelta(seconds=-1), additional_claims={"sid": claims["sid"]}
        )
    assert_problem(call_with(client, f"Bearer {token}"), 401, "token_expired")
    response = call_with(client, f"Bearer {refresh}")
    assert response.status_code == 401


@pytest.mark.parametrize(("seconds", "status"), [(5, 200), (120, 401)])
def test_token_of_a_machine_whose_clock_is_ahead_is_good_within_a_few_seconds(client, user, app, seconds, status):
    claims = jwt.decode(user.access_token, options={"verify_signature": False})
    claims |= dict.fromkeys(("iat", "nbf"), int(utc_now().timestamp()) + seconds)
    token = jwt.encode(claims, app.config["JWT_SECRET_KEY"], "HS256", jwt.get_unverified_header(user.access_token))
    assert call_with(client, f"Bearer {token}").status_code == status


def test_token_that_was_accepted_before_expires_all_the_same(client, user, monkeypatch):
    assert call_with(client, f"Bearer {user.access_token}").status_code == 200
    monkeypatch.setattr("app.core.auth.utc_now", lambda: utc_now() + timedelta(days=2))
    assert_problem(call_with(client, f"Bearer {user.access_token}"), 401, "token_expired")


def test_token_whose_session_is_gone_is_token_revoked(app, client, user):
    with app.app_context():
        db.session.execute(db.text("DELETE FROM auth_sessions"))
        db.session.commit()
    assert_problem(user.get("/user/me"), 401, "token_revoked")


def test_token_whose_user_is_gone_is_token_revoked(app, user):
    room = user.make_chatroom()
    with app.app_context():
        db.session.execute(db.text("DELETE FROM users"))
        db.session.commit()
        app.extensions["redis"].flushdb()  # it caches the session for a minute
    for response in (user.get("/user/me"), user.get("/chatroom"), user.post(f"{room}/message", json={"text": "Hello"})):
        assert_problem(response, 401, "token_revoked")


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"sid": "not-a-uuid"},
        {"sid": None},
        {"sid": 7},
        {"sid": "0192d3a4-5b6c-7d8e-9f01-23456789abcd"},
    ],
)
def test_token_of_ours_with_odd_claims_is_401(app, client, user, claims):
    with app.app_context():
        tokens = [
            create_access_token(user.id, additional_claims=claims),
            create_access_token("x", additional_claims=claims),
        ]
    for token in tokens:
        response = call_with(client, f"Bearer {token}")
        assert response.status_code == 401, response.text
        assert_problem(response, 401, response.json["code"])


@pytest.mark.parametrize(
    "odd", [{"scopes": None}, {"scopes": 5}, {"scopes": ["chat:read"]}, {"exp": "1"}, {"exp": []}, {"type": "x"}]
)
def test_a_token_of_ours_with_one_odd_claim_is_401(app, client, user, odd):
    claims = jwt.decode(user.access_token, options={"verify_signature": False}) | odd
    token = jwt.encode(claims, app.config["JWT_SECRET_KEY"], "HS256", jwt.get_unverified_header(user.access_token))
    for path in ("/user/me", "/models"):
        response = call_with(client, f"Bearer {token}", path=path)
        assert_problem(response, 401, "token_expired" if odd == {"exp": "1"} else "token_invalid")


def test_token_is_read_from_the_header_alone(client, user):
    assert_problem(
        client.get(f"/user/me?jwt={user.access_token}&access_token={user.access_token}"), 401, "token_missing"
    )
    client.set_cookie("access_token_cookie", user.access_token)
    assert_problem(client.get("/user/me"), 401, "token_missing")


def test_token_carries_a_string_identity_and_lasts_as_configured(user):
    claims = jwt.decode(user.access_token, options={"verify_signature": False})
    assert claims["sub"] == user.id
    assert claims["exp"] - claims["iat"] == timedelta(days=1).total_seconds()


def test_every_kind_of_token_error_has_a_challenge():
    for kind in TokenError.__subclasses__():
        assert kind().headers["WWW-Authenticate"].startswith("Bearer ")


def test_application_without_a_session_validator_does_not_start(migrated_app):
    with pytest.raises(TypeError, match="is_session_active"):
        register_auth(Flask("without"), migrated_app.extensions["settings"])


def test_no_token_works_without_the_session_validator(make_app, user):
    app = make_app()
    headers = {"Authorization": f"Bearer {user.access_token}"}
    assert app.test_client().get("/user/me", headers=headers).status_code == 200
    check = app.extensions.pop("is_session_active")
    assert app.test_client().get("/user/me", headers=headers).status_code == 500
    app.extensions["redis"].flushdb()  # it caches the session for a minute
    app.extensions["is_session_active"] = lambda session_id, user_id, now: not check(session_id, user_id, now)
    assert_problem(app.test_client().get("/user/me", headers=headers), 401, "token_revoked")
