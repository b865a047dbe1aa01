"""`flask users` and `flask health`, as an operator or an orchestrator runs them."""

import json
from datetime import timedelta

import pytest
from sqlalchemy import text

from app.core.clock import utc_now
from app.core.db import db
from app.ops import totals as rollup


@pytest.fixture
def flask(app):
    return lambda *words: app.test_cli_runner().invoke(args=list(words))


def tier(person) -> str:
    return person.get("/user/usage").json["tier"]


def test_a_user_is_found_by_id_and_by_any_spelling_of_the_number(user, flask):
    spelled = f"{user.mobile[:2]} ({user.mobile[2:5]}) {user.mobile[5:]}"
    for who in (user.id, user.mobile, spelled):
        result = flask("users", "find", who)
        output = result.output
        assert user.id in output, (output, result.exception)
        assert user.mobile in output


def test_json_output_is_one_object_a_line(user, flask):
    flask("users", "grant-pro", user.mobile, "--reason", "A gift")
    found, grant = (json.loads(line) for line in flask("users", "find", user.id, "--json").output.splitlines())
    assert (found["kind"], found["id"], found["tier"]) == ("user", user.id, "pro")
    assert [*found] == ["kind", "id", "mobile", "name", "tier", "chatrooms", "created_at", "verified_at"]
    assert [*grant] == ["kind", "state", "reason", "created_at", "ends_at", "revoked_at"]
    assert (grant["kind"], grant["state"], grant["reason"], grant["ends_at"]) == ("grant", "active", "A gift", None)


def test_pro_is_granted_and_revoked(user, flask):
    assert tier(user) == "basic"
    assert flask("users", "grant-pro", user.mobile, "--reason", "A gift", "--days", "7").exit_code == 0
    assert tier(user) == "pro"
    assert "1 grant revoked" in flask("users", "revoke-pro", user.mobile).output
    assert tier(user) == "basic"
    assert "revoked" in flask("users", "find", user.mobile).output
    assert flask("users", "revoke-pro", user.mobile).exit_code == 1


def test_a_grant_lasts_for_its_days(user, flask, app):
    before = utc_now()
    flask("users", "grant-pro", user.mobile, "--reason", "A gift", "--days", "3")
    with app.app_context():
        ends_at = db.session.scalar(text("SELECT ends_at FROM pro_grants"))
    assert before <= ends_at - timedelta(days=3) <= utc_now()


def test_pro_is_not_granted_to_an_unverified_number(client, flask, mobile_numbers):
    """The next signup takes the number over, and must find nothing that belongs to the earlier one."""
    signup = {"mobile": next(mobile_numbers)}
    assert client.post("/auth/signup", json=signup).status_code == 201
    result = flask("users", "grant-pro", signup["mobile"], "--reason", "A gift")
    assert result.exit_code == 1
    assert "has not verified the mobile number" in result.output
    assert len(result.output.splitlines()) == 1
    assert client.post("/auth/signup", json=signup).status_code == 201


@pytest.mark.parametrize(
    "words",
    [
        ["grant-pro", "MOBILE"],
        ["grant-pro", "MOBILE", "--reason", "  "],
        ["grant-pro", "MOBILE", "--reason", "x", "--days", "0"],
        ["grant-pro", "MOBILE", "--reason", "caf\udce9"],  # as a terminal that does not speak UTF-8 sends it
        ["find", "+15005550000"],
        ["find", "nonsense"],
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(user, flask, words):
    result = flask("users", *(user.mobile if word == "MOBILE" else word for word in words))
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert tier(user) == "basic"


def test_an_account_is_deleted_only_after_a_yes(user, flask):
    assert flask("users", "delete", user.mobile).exit_code == 1  # nobody is there to say yes
    assert user.get("/user/me").status_code == 200
    assert flask("users", "delete", user.mobile, "--yes").exit_code == 0
    assert user.get("/user/me").status_code == 401


def test_a_name_cannot_control_the_operators_terminal(make_user, flask):
    user = make_user()
    assert user.patch("/user/me", json={"name": "a\ntier  pro\x1b]0;x\x07"}).status_code == 200
    shown = flask("users", "find", user.mobile).output
    assert r"a\ntier  pro\x1b]0;x\x07" in shown
    assert "\x1b" not in shown


def test_json_output_of_an_odd_name_is_one_line_of_ascii(make_user, flask):
    user = make_user()
    name = "Zoë\x9b31m\x85\u2028\u202e"  # what a terminal obeys, and what programs take for the end of a line
    assert user.patch("/user/me", json={"name": name}).status_code == 200
    [line] = flask("users", "find", user.mobile, "--json").output.splitlines()
    assert line.isascii()
    assert json.loads(line)["name"] == name


def test_health_is_well_when_beat_ticks_and_nothing_waits(app, flask):
    with app.app_context():
        rollup.tick(utc_now())
    result = flask("health")
    assert result.exit_code == 0, result.output
    assert "FAILED" not in result.output


def test_health_fails_when_replies_wait_for_no_worker(user, app, flask):
    user.post(f"{user.make_chatroom()}/message", json={"text": "Hello"})
    with app.app_context():
        for seconds, code in ((40, 0), (30, 2)):
            rollup.tick(utc_now())
            db.session.execute(text(f"UPDATE messages SET accepted_at = accepted_at - interval '{seconds} seconds'"))
            db.session.commit()
            assert flask("health").exit_code == code
    result = flask("health", "--json")
    assert result.exit_code == 2
    [queue] = [row for row in map(json.loads, result.output.splitlines()) if row["result"] == "FAILED"]
    assert queue["check"] == "queue"
    assert flask("health", "--max-queued", "600").exit_code == 0


def test_health_fails_when_beat_is_silent(app, flask):
    assert flask("health").exit_code == 3
    for seconds, code in ((70, 3), (40, 0)):
        with app.app_context():
            rollup.tick(utc_now() - timedelta(seconds=seconds))
        assert flask("health").exit_code == code
    assert flask("health", "--max-tick", "30").exit_code == 3


def test_health_names_what_does_not_answer(make_app):
    app = make_app(database_url="postgresql://127.0.0.1:1/nothing", redis_url="redis://127.0.0.1:1")
    result = app.test_cli_runner().invoke(args=["health"])
    assert result.exit_code == 1
    assert result.output.count("FAILED") == 2


@pytest.mark.parametrize(
    "words",
    [
        ["users", "find", "+14155552671"],
        ["billing", "sync", "+14155552671"],
        ["usage", "report", "--from", "2026-11-01", "--to", "2026-11-30"],
        ["replies", "failed"],
    ],
)
def test_a_command_without_postgresql_ends_in_one_sentence(make_app, words):
    runner = make_app(database_url="postgresql://127.0.0.1:1/nothing").test_cli_runner()
    result = runner.invoke(args=words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: PostgreSQL is unavailable: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["users"], ["replies"], ["health"], ["users", "find"], ["users", "grant-pro"]])
def test_every_command_has_help(flask, words):
    result = flask(*words, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


@pytest.mark.parametrize(
    ("words", "sentences"),
    [
        (["health"], ["Exit code 1: PostgreSQL or Redis", "2: a due reply", "3: beat's tick", "4: a worker process"]),
        (["gemini", "check"], ["0 if Gemini answers", "1 if it refuses the key", "3 if it gives no answer now"]),
        (["billing", "sync"], ["Compare our copies of subscriptions with Stripe", "the exit code is 1"]),
        (["usage", "report"], ["their cost by MODEL_PRICES", "Shows no cost where a price is missing"]),
    ],
)
def test_help_tells_what_a_command_does_and_its_exit_codes(flask, words, sentences):
    output = " ".join(flask(*words, "--help").output.split())
    assert [sentence for sentence in sentences if sentence not in output] == []
