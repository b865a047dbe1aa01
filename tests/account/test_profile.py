"""The user's own profile, and the day's usage."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.problems import assert_problem


def test_profile_shows_the_data_of_the_signup(make_user):
    ada = make_user(name="Ada")
    me = ada.get("/user/me")
    assert me.status_code == 200
    assert list(me.json) == ["id", "mobile", "name", "tier", "has_password", "created_at"]
    assert me.json["id"] == ada.id
    assert me.json["mobile"] == ada.mobile
    assert me.json["name"] == "Ada"
    assert me.json["tier"] == "basic"


@pytest.mark.parametrize(
    ("given", "kept"),
    [("Grace", "Grace"), ("  Grace ", "Grace"), ("a" * 100, "a" * 100), ("😀", "😀"), ("محمد", "محمد"), (None, None)],
)
def test_name_can_be_changed_and_removed(make_user, given, kept):
    ada = make_user(name="Ada")
    changed = ada.patch("/user/me", json={"name": given})
    assert changed.status_code == 200
    assert changed.json["name"] == kept
    assert ada.get("/user/me").json == changed.json


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": " "},
        {"name": "a" * 101},
        {"name": 7},
        {},
        {"mobile": "+14155552671"},
        {"name": "A", "tier": "pro"},
    ],
)
def test_nothing_but_a_name_can_be_changed(user, body):
    before = user.get("/user/me").json
    assert_problem(user.patch("/user/me", json=body), 422, "validation_error")
    assert user.get("/user/me").json == before


def test_a_change_of_one_profile_leaves_others_alone(make_user):
    ada, bob = make_user(name="Ada"), make_user(name="Bob")
    ada.patch("/user/me", json={"name": "Grace"})
    assert bob.get("/user/me").json["name"] == "Bob"
    assert bob.get("/user/me").json["id"] != ada.id


def test_usage_counts_the_prompts_of_the_day(user):
    room = user.make_chatroom()
    for used in range(3):
        usage = user.get("/user/usage").json
        assert (usage["tier"], usage["limit"], usage["used"], usage["remaining"]) == ("basic", 5, used, 5 - used)
        assert user.post(f"{room}/message", json={"text": "Hello"}).status_code == 202


def test_usage_resets_at_the_next_midnight_utc(user):
    before = datetime.now(UTC)
    resets_at = user.get("/user/usage").json["resets_at"]
    assert resets_at.endswith("T00:00:00.000000Z")
    assert timedelta(0) < datetime.fromisoformat(resets_at) - before <= timedelta(days=1)


def test_refused_prompts_do_not_count_as_used(user, make_user):
    room = user.make_chatroom()
    assert make_user().post(f"{room}/message", json={"text": "Hello"}).status_code == 404
    assert user.post(f"{room}/message", json={"text": ""}).status_code == 422
    assert user.post(f"{room}/message", data=b"{", content_type="application/json").status_code == 400
    assert user.get("/user/usage").json["used"] == 0


def test_usage_shows_null_for_the_limit_of_pro(app, user):
    from app.billing.tier import grant_pro

    with app.app_context():
        grant_pro(user.id, reason="a test", ends_at=None, now=datetime.now(UTC))
    usage = user.get("/user/usage").json
    assert (usage["tier"], usage["limit"], usage["remaining"], usage["used"]) == ("pro", None, None, 0)
    assert user.get("/user/me").json["tier"] == "pro"
