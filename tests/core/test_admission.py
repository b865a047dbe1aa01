"""Abuse limits: by user, by address, tighter for accounts, none where they would do harm, open without Redis."""

import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from flask import Flask
from flask_jwt_extended import create_access_token
from limits import RateLimitItemPerMinute

from app.auth.throttles import AUTH_REQUESTS, CODES_SENT
from app.core import admission
from app.core.admission import REQUESTS, held_request
from app.core.broker import TIMEOUTS
from app.core.redis import rate_limits, window_seconds
from sandbox.stack.servers import ValkeyServer
from tests.people import log_in
from tests.problems import assert_problem

PER_MINUTE = 12


@pytest.fixture
def make_limited(app, make_app, valkey, monkeypatch) -> Callable[..., Flask]:
    """Make the application with limits that a test can reach, and that a slow Valkey does not lift."""
    for timeout in TIMEOUTS:  # a machine under load may stall for longer than the service waits
        monkeypatch.setitem(TIMEOUTS, timeout, 20)

    def make(redis_url: str = valkey.url, **overrides) -> Flask:
        return make_app(**{"rate_limit_per_minute": PER_MINUTE, "redis_url": redis_url} | overrides)

    return make


@pytest.fixture
def limited(make_limited) -> Flask:
    return make_limited()


def call(app, method="GET", path="/user/me", *, ip="203.0.113.1", token=None, **kwargs):
    headers = kwargs.pop("headers", {}) | ({"Authorization": f"Bearer {token}"} if token else {})
    return app.test_client().open(path, method=method, headers=headers, environ_overrides={"REMOTE_ADDR": ip}, **kwargs)


def statuses(count, *args, **kwargs):
    return [call(*args, **kwargs).status_code for _ in range(count)]


def test_user_is_limited_from_any_address(limited, user, make_user):
    other = make_user()
    assert statuses(PER_MINUTE, limited, token=user.access_token) == [200] * PER_MINUTE
    refused = call(limited, token=user.access_token, ip="203.0.113.2")
    assert_problem(refused, 429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert call(limited, token=other.access_token).status_code == 200, "another user at the same address goes on"


@pytest.mark.parametrize("left_ms", [1_400, 30_300, 59_400])
def test_a_refusal_says_to_wait_until_the_window_has_ended(app, redis_db, left_ms):
    item = RateLimitItemPerMinute(1)
    with app.app_context():
        assert rate_limits().hit(item, "somebody")
        (counter,) = redis_db.keys("*somebody*")
        redis_db.pexpire(counter, left_ms)
        waited_ms = window_seconds(item, "somebody") * 1_000
        assert redis_db.pttl(counter) <= waited_ms <= left_ms + 1_000
        redis_db.delete(counter)
        assert window_seconds(item, "somebody") == 1


def test_a_users_minute_begins_with_its_first_request_whatever_follows(limited, user, redis_db):
    call(limited, token=user.access_token)
    (counter,) = redis_db.keys("*user:*")
    redis_db.delete(counter)
    assert call(limited, token=user.access_token).status_code == 200
    assert 0 < redis_db.ttl(counter) <= 60
    redis_db.expire(counter, 30)
    assert call(limited, token=user.access_token).status_code == 200
    assert redis_db.ttl(counter) <= 30


def test_address_without_a_good_token_is_limited(limited):
    assert statuses(PER_MINUTE, limited) == [401] * PER_MINUTE
    assert_problem(call(limited), 429, "rate_limited")
    assert_problem(call(limited, token="a.b.c"), 429, "rate_limited")
    assert call(limited, ip="203.0.113.2").status_code == 401


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
def test_a_logged_out_token_counts_for_its_address_and_not_for_its_user(limited, user, kind):
    path = {"access_token": ("GET", "/user/me"), "refresh_token": ("POST", "/auth/refresh")}[kind]
    fresh = log_in(user.client, user.mobile).json["access_token"]
    user.post("/auth/logout")
    dead, thief = getattr(user, kind), "203.0.113.66"
    assert statuses(PER_MINUTE, limited, *path, token=dead, ip=thief) == [401] * PER_MINUTE
    assert_problem(call(limited, *path, token=dead, ip=thief), 429, "rate_limited")
    assert statuses(PER_MINUTE, limited, token=fresh) == [200] * PER_MINUTE


def test_a_token_of_ours_with_odd_claims_counts_for_its_address(limited, user):
    with limited.app_context():
        odd = create_access_token(user.id, additional_claims={"sid": "not-a-uuid"})
    assert statuses(PER_MINUTE, limited, token=odd) == [401] * PER_MINUTE
    assert_problem(call(limited, token=odd), 429, "rate_limited")


def test_a_request_that_sends_two_codes_counts_twice_for_its_address(make_limited, user):
    limited = make_limited(rate_limit_per_minute=60)
    pairs, asked = CODES_SENT.share(60) // 2, ("POST", "/auth/change-mobile")
    assert statuses(pairs, limited, *asked, token=user.access_token, json={}) == [422] * pairs
    assert_problem(call(limited, *asked, token=user.access_token, json={}), 429, "rate_limited")


def test_account_routes_have_a_lower_limit(limited):
    allowed = AUTH_REQUESTS.share(PER_MINUTE)
    assert allowed < PER_MINUTE
    body = {"mobile": "+14155552671", "otp": "123456"}
    seen = statuses(allowed, limited, "POST", "/auth/verify-otp", json=body)
    assert set(seen) == {401}
    for path in ("/auth/verify-otp", "/auth/login", "/auth/signup", "/auth/send-otp", "/auth/reset-password"):
        assert_problem(call(limited, "POST", path, json=body), 429, "rate_limited")


def test_guesses_at_codes_for_another_number_have_a_lower_limit_by_address_than_by_user(limited, user):
    allowed = AUTH_REQUESTS.share(PER_MINUTE)
    assert allowed < PER_MINUTE
    guess = {"path": "/auth/change-mobile/verify", "token": user.access_token}
    guess["json"] = {"new_mobile": "+14155552671", "otp": "123456", "current_otp": "123456"}
    assert statuses(allowed, limited, "POST", **guess) == [401] * allowed
    assert_problem(call(limited, "POST", **guess), 429, "rate_limited")
    assert call(limited, token=user.access_token).status_code == 200, "other routes go on"


def test_codes_sent_for_one_address_are_limited_by_the_hour(make_limited, user):
    roomy = make_limited(rate_limit_per_minute=400)
    allowed = CODES_SENT.share(400)
    with roomy.test_request_context(environ_overrides={"REMOTE_ADDR": "203.0.113.1"}):
        for _ in range(allowed):
            admission.limit_address(CODES_SENT)
    refused = call(roomy, "POST", "/auth/send-otp", json={"mobile": "+14155552671"})
    assert_problem(refused, 429, "rate_limited")
    assert int(refused.headers["Retry-After"]) > 3_000
    assert call(roomy, "POST", "/auth/forgot-password", json={"mobile": "+14155552671"}).status_code == 429
    asked = {"path": "/auth/change-mobile", "json": {"new_mobile": "+14155552671"}, "token": user.access_token}
    refused = call(roomy, "POST", **asked)
    assert_problem(refused, 429, "rate_limited")
    assert int(refused.headers["Retry-After"]) > 3_000
    assert call(roomy, "POST", **asked, ip="203.0.113.2").status_code == 202


def test_the_body_is_not_read_above_the_limit(limited):
    statuses(PER_MINUTE, limited, "POST", "/auth/signup", data="{", content_type="application/json")
    assert call(limited, "POST", "/auth/signup", data="{", content_type="application/json").status_code == 429


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/"])
def test_health_metrics_and_docs_are_not_limited(limited, path):
    assert set(statuses(3 * PER_MINUTE, limited, path=path)) <= {200, 302}


def test_webhook_is_not_limited(make_limited):
    limited = make_limited(stripe_webhook_secret="whsec_of_the_test", stripe_secret_key="sk_test_x")
    assert set(statuses(3 * PER_MINUTE, limited, "POST", "/webhook/stripe", data=b"{}")) == {400}


def test_every_public_route_has_limits_for_addresses(app):
    free = {"/healthz", "/readyz", "/metrics", "/webhook/stripe"}
    for rule in app.url_map.iter_rules():
        contract = getattr(app.view_functions[rule.endpoint], "_apidoc", {}).get("contract", {})
        if contract.get("auth") == "public" and rule.rule not in free:
            assert contract["limits"], f"{rule.methods} {rule.rule} is open to floods"


def test_zero_lifts_the_limits(app, user):
    assert set(statuses(3 * PER_MINUTE, app, token=user.access_token)) == {200}


def test_each_limit_is_its_share_of_the_setting():
    assert [REQUESTS.share(n) for n in (1, 120, 6_000)] == [1, 120, 6_000]
    assert [AUTH_REQUESTS.share(n) for n in (1, 5, 20, 120, 6_000)] == [1, 5, 10, 30, 1_500]
    assert [CODES_SENT.share(n) for n in (1, 120, 6_000)] == [30, 60, 3_000]


def test_forwarded_address_counts_only_behind_trusted_proxies(make_limited):
    def flood(target, headers):
        return [
            call(target, headers={"X-Forwarded-For": headers.format(n=n)}).status_code for n in range(PER_MINUTE + 1)
        ][-1]

    plain = make_limited()
    assert flood(plain, "198.51.100.{n}") == 429, "nobody escapes by naming another address"
    behind = make_limited(trusted_proxies=1)
    assert flood(behind, "198.51.100.{n}") == 401, "the proxy's word counts"
    assert flood(behind, "192.0.2.{n}, 198.51.100.200") == 429, "what the client wrote before it does not"
    assert flood(behind, "198.51.100.201:{n}") == 429, "another port is the same address"
    assert flood(behind, "no address {n}") == 429, "what is no address is all one"
    quoted = call(behind, headers={"X-Forwarded-For": '", 198.51.100.200'}, ip="203.0.113.2")
    assert quoted.status_code == 429, "an open quotation mark does not hide the proxy's word"


def test_without_redis_the_limits_are_lifted_at_once_and_apply_again_later(make_limited, user, capsys):
    with ValkeyServer(append_only=False) as own:
        limited = make_limited(own.url)
        assert call(limited, token=user.access_token).status_code == 200
        own.kill()
        began = time.monotonic()
        assert set(statuses(2 * PER_MINUTE, limited, token=user.access_token)) == {200}
        assert time.monotonic() - began < 15, "not every request waited"
        assert call(limited).status_code == 401
        told = capsys.readouterr().err
        assert "PostgreSQL checks sessions, and no request is counted" in told, "of users"
        assert "rate limits are not enforced" in told, "of addresses"
        own.start()
        assert 429 in statuses(PER_MINUTE + 1, limited, token=user.access_token)


@pytest.mark.parametrize(
    ("addresses", "allowed"),
    [
        ("2001:db8:1:1::{:x}", 1),  # one /64
        ("2001:db8:1:{:x}::1", 4),  # 256 of them, one /56
        ("2001:db8:1:{:x}00::1", 16),  # 256 of those, one /48
    ],
)
def test_wider_networks_of_ipv6_have_limits_too(limited, addresses, allowed):
    seen = [call(limited, ip=addresses.format(n % 256)).status_code for n in range(allowed * PER_MINUTE + 20)]
    assert seen.count(401) == allowed * PER_MINUTE
    assert seen[-1] == 429
    assert call(limited, ip="2001:db8:2::1").status_code == 401, "others go on"


def test_a_refused_narrow_network_does_not_use_up_the_wider_one(limited):
    statuses(20 * PER_MINUTE, limited, ip="2001:db8:1:1::1")
    assert call(limited, ip="2001:db8:1:2::1").status_code == 401


def test_the_end_of_a_held_request_lets_in_one_more_and_no_second_one():
    with ExitStack() as first, ExitStack() as others:
        assert first.enter_context(held_request("of this test", at_most=2))
        assert others.enter_context(held_request("of this test", at_most=2))
        first.close()
        assert [others.enter_context(held_request("of this test", at_most=2)) for _ in range(2)] == [True, False]
