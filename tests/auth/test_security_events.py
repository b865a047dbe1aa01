"""Security events: what happened to an account, for its owner and for support."""

import json
from datetime import timedelta

import pytest
from sqlalchemy import text

from app.account.tasks import delete_ended
from app.auth import events
from app.core.clock import utc_now
from app.core.db import db
from tests.auth.conftest import wrong
from tests.auth.test_sessions import let_pass, refresh
from tests.people import age_codes, all_at_once
from tests.problems import assert_problem

PASSWORD = "correct horse battery"
PHONE = {"User-Agent": "Phone/1.0"}


def listed(visitor, token, query=""):
    answer = visitor.client.get(f"/user/security-events{query}", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    return answer.json


def types(visitor, token):
    """Return the types of the account's events, oldest first."""
    return [item["type"] for item in reversed(listed(visitor, token, "?limit=100")["items"])]


def log_in(visitor, *, ip="203.0.113.7", headers=PHONE):
    answer = visitor.client.post(
        "/auth/login",
        json={"mobile": visitor.mobile, "password": PASSWORD},
        headers=headers,
        environ_overrides={"REMOTE_ADDR": ip},
    )
    assert answer.status_code == 200, answer.text
    return answer.json["access_token"]


def test_a_first_login_is_from_a_new_device_and_shows_where_from(make_member):
    who, tokens = make_member()
    (event,) = listed(who, tokens["access_token"])["items"]
    assert event["type"] == "login_new_device"
    assert event["ip"] == "203.0.113.7"
    assert event["user_agent"].startswith("Werkzeug/")
    assert set(event) == {"id", "type", "created_at", "ip", "user_agent"}


@pytest.mark.parametrize(
    ("ip", "headers", "kind"),
    [
        ("203.0.113.7", PHONE, "login"),
        ("203.0.113.250", PHONE, "login"),  # the same network
        ("203.0.114.7", PHONE, "login_new_device"),
        ("203.0.113.7", {"User-Agent": "Phone/2.0"}, "login_new_device"),
        ("2001:db8::1", PHONE, "login_new_device"),
        ("nonsense", PHONE, "login_new_device"),
        ("203.0.113.7", {"User-Agent": ""}, "login_new_device"),
    ],
)
def test_a_login_from_elsewhere_or_in_another_program_is_a_new_device(make_member, ip, headers, kind):
    who, _ = make_member(password=PASSWORD)
    log_in(who)
    for expected in (kind, "login"):  # the second login comes from a known device
        token = log_in(who, ip=ip, headers=headers)
        assert types(who, token)[-1] == expected


def test_addresses_of_one_ipv6_network_are_one_place(make_member):
    who, _ = make_member(password=PASSWORD)
    log_in(who, ip="2001:db8:1:2::3")
    assert types(who, log_in(who, ip="2001:db8:1:ffff::9"))[-1] == "login"
    assert types(who, log_in(who, ip="2001:db8:2::9"))[-1] == "login_new_device"


def test_a_device_is_forgotten_after_ninety_days(app, make_member):
    who, _ = make_member(password=PASSWORD)
    log_in(who)
    with app.app_context():
        db.session.execute(text("UPDATE security_events SET created_at = created_at - interval '91 days'"))
        db.session.commit()
    token = log_in(who)
    assert types(who, token) == ["login_new_device"]  # nothing older is shown
    with app.app_context():
        assert delete_ended(now=utc_now())["security events"] >= 3


def test_new_passwords_and_ended_sessions_are_events(app, make_member):
    who, _ = make_member(password=PASSWORD)  # a first login, and a password
    other = log_in(who)
    sessions = who.client.get("/auth/sessions", headers={"Authorization": f"Bearer {other}"}).json["items"]
    (first,) = [session["id"] for session in sessions if not session["current"]]
    ended = who.client.delete(f"/auth/sessions/{first}", headers={"Authorization": f"Bearer {other}"})
    assert ended.status_code == 204
    reset = who.reset(who.forgot().json["otp"], PASSWORD)
    assert reset.status_code == 204
    token = log_in(who)
    assert types(who, token) == [
        *("login_new_device", "password_changed", "login_new_device", "session_revoked"),
        *("password_changed", "login"),
    ]
    assert who.post("/auth/logout", token=token).status_code == 204
    assert types(who, log_in(who))[-1] == "login"  # a logout is no event


def test_a_reused_refresh_token_is_one_event(app, make_member):
    who, tokens = make_member(password=PASSWORD)
    assert refresh(who, tokens).status_code == 200
    let_pass(app, 11)
    assert_problem(refresh(who, tokens), 401, "token_revoked")
    assert_problem(refresh(who, tokens), 401, "token_revoked")  # only the first reuse is an event
    assert types(who, log_in(who)).count("refresh_token_reused") == 1


def test_codes_locked_by_wrong_guesses_are_one_event(app, make_member):
    who, tokens = make_member()
    for _ in range(2):
        otp = who.send_otp().json["otp"]
        for answer in all_at_once([lambda otp=otp: who.verify(wrong(otp))] * 5):
            assert answer.status_code == 401
        age_codes(app, who.mobile, seconds=61)
    assert_problem(who.verify("000000"), 429, "otp_locked")
    assert types(who, tokens["access_token"]) == ["login_new_device", "codes_locked"]


def test_an_unknown_number_has_no_events(app, visitor):
    for _ in range(2):
        otp = visitor.send_otp().json["otp"]
        for _ in range(5):
            assert visitor.verify(wrong(otp)).status_code == 401
        age_codes(app, visitor.mobile, seconds=61)
    with app.app_context():
        assert db.session.scalar(text("SELECT count(*) FROM security_events")) == 0


def test_a_wrong_password_is_no_event(make_member):
    who, tokens = make_member(password=PASSWORD)
    before = types(who, tokens["access_token"])
    assert who.login("wrong password").status_code == 401
    change = who.post(
        "/auth/change-password", token=tokens["access_token"], current_password="wrong one", new_password=PASSWORD
    )
    assert change.status_code == 403
    assert types(who, tokens["access_token"]) == before


def test_pages_have_every_event_of_their_owner_once(make_member):
    who, _ = make_member(password=PASSWORD)
    stranger, theirs = make_member()
    token = [log_in(who) for _ in range(5)][-1]
    ids, query = [], "?limit=2"
    while True:
        page = listed(who, token, query)
        ids += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query = f"?limit=2&cursor={page['next_cursor']}"
    assert len(ids) == len(set(ids)) == 7
    assert ids == sorted(ids, reverse=True)
    assert not set(ids) & {item["id"] for item in listed(stranger, theirs["access_token"])["items"]}
    for query, status in (("?limit=0", 422), ("?cursor=x", 400), ("?sort=old", 422)):
        answer = who.client.get(f"/user/security-events{query}", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status
    assert who.client.get("/user/security-events").status_code == 401


def test_the_export_has_all_events_and_a_deletion_removes_them(app, make_member, monkeypatch):
    from app.account import export
    from app.account.tasks import purge_account, purge_chatroom

    monkeypatch.setattr(export, "MESSAGES_AT_ONCE", 2)
    who, _ = make_member(password=PASSWORD)
    token = [log_in(who) for _ in range(4)][-1]
    headers = {"Authorization": f"Bearer {token}"}
    exported = json.loads(who.client.get("/user/me/export", headers=headers).text)
    assert exported["security_events"] == listed(who, token)["items"]
    assert len(exported["security_events"]) == 6
    assert who.client.delete("/user/me", headers=headers).status_code == 204
    with app.app_context():
        while purge_account() or purge_chatroom():
            pass
        assert db.session.scalar(text("SELECT count(*) FROM security_events")) == 0


def test_support_can_list_the_events_of_a_user(app, make_member):
    who, _ = make_member(password=PASSWORD)
    runner = app.test_cli_runner()
    told = runner.invoke(args=["users", "events", who.mobile])
    assert told.exit_code == 0, told.output
    assert [line.split()[0] for line in told.output.splitlines() if line.strip()][1:] == [
        "password_changed",
        "login_new_device",
    ]
    rows = [
        json.loads(line) for line in runner.invoke(args=["users", "events", who.mobile, "--json"]).output.splitlines()
    ]
    assert [row["type"] for row in rows] == ["password_changed", "login_new_device"]
    assert len(runner.invoke(args=["users", "events", who.mobile, "--limit", "1"]).output.splitlines()) == 2
    assert runner.invoke(args=["users", "events", "+14155559999"]).exit_code == 2


def test_a_login_that_fails_with_a_defect_leaves_no_event(app, make_member, monkeypatch):
    """An event is written in the transaction of what it records."""
    who, tokens = make_member(password=PASSWORD)
    before = types(who, tokens["access_token"])

    def fail(*_, **__):
        raise RuntimeError

    monkeypatch.setattr("app.auth.service.open_session", fail)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    try:
        assert who.login(PASSWORD).status_code == 500
    finally:
        app.config["PROPAGATE_EXCEPTIONS"] = None
    assert types(who, tokens["access_token"]) == before
    assert timedelta(days=90) == events.RETENTION
