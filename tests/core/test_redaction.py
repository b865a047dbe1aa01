"""What a log line never shows, wherever it comes from."""

import json
import logging

import pytest

from app.core.logging import JsonLineFormatter, redact, secrets_of

SETTINGS = {
    "jwt_secret": "a-very-long-secret",
    "gemini_api_key": "AIzaSyExample",
    "metrics_token": 'with"quote',
    "database_url": "postgresql+psycopg2://app:p%40ssw0rd@db/app",
    "redis_url": "rediss://cache/0?ssl_keyfile=/run/key.pem&ssl_password=of%2Bthe+key",
    "gemini_model": "gemini-3.5-flash",
    "otp_delivery": "log",
}


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("signed with a-very-long-secret", "signed with [secret]"),
        ("GET /v1beta?key=AIzaSyExample", "GET /v1beta?key=[secret]"),
        ("password p@ssw0rd and p%40ssw0rd", "password [secret] and [secret]"),
        ("ssl_password=of%2Bthe+key of /run/key.pem", "ssl_password=[secret] of /run/key.pem"),
        ("opened with of+the key", "opened with [secret]"),
        ('{"token": "with\\"quote"}', '{"token": "[secret]"}'),
        ("redis://:hunter22@host:6379/0", "redis://[credentials]@host:6379/0"),
        ("for +14155552671 now", "for …71 now"),
        ("mobile=%2B4915112345678", "mobile=…78"),
        ("Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "Bearer [token]"),
        ("Bearer gbk_3q-Zk_8vT0 of a program", "Bearer [key] of a program"),
        (
            "gemini-3.5-flash took 1.25 s at 2026-11-21T09:30:00+0000",
            "gemini-3.5-flash took 1.25 s at 2026-11-21T09:30:00+0000",
        ),
        ("http://127.0.0.1:8081/v1beta a@b", "http://127.0.0.1:8081/v1beta a@b"),
    ],
)
def test_secrets_tokens_and_numbers_are_masked(line, shown):
    assert redact(line, secrets_of(SETTINGS)) == shown


def test_a_setting_that_only_begins_like_a_url_does_no_harm():
    assert secrets_of({"gemini_system_instruction": "http://[docs] is our manual.", "jwt_secret": "a://[hush"})


PROMPT = "the text of a prompt"
OF_POSTGRESQL = f"violates a check\nDETAIL: Failing row contains ({PROMPT})\n\nand more of {PROMPT}"
OF_SQLALCHEMY = f"could not store\n[parameters: {PROMPT}]"


def test_a_traceback_shows_no_row():
    def fail() -> None:
        try:
            int("x")
        except ValueError as error:
            error.args = (OF_POSTGRESQL,)
            raise RuntimeError(OF_SQLALCHEMY) from error

    with pytest.raises(RuntimeError) as caught:
        fail()
    record = logging.LogRecord(
        "x", logging.ERROR, __file__, 1, "Failed", None, (type(caught.value), caught.value, None)
    )
    record.request_id = "-"
    shown = json.loads(JsonLineFormatter("%(levelname)s %(message)s").format(record))["exc_info"]
    assert PROMPT not in shown
    assert "ValueError: violates a check" in shown
    assert "RuntimeError: could not store" in shown
    assert "in fail" in shown


def test_celerys_log_line_of_a_failed_task_shows_no_row(app, caplog):
    @app.extensions["celery"].task(name="tests.fails")
    def fail() -> None:
        raise RuntimeError(OF_POSTGRESQL)

    fail.apply()
    [record] = [record for record in caplog.records if record.name == "celery.app.trace"]
    line = JsonLineFormatter("%(message)s").format(record)
    assert PROMPT not in line
    assert "tests.fails" in line
    assert "RuntimeError: violates a check" in line
