"""Settings: what production refuses to start with, each in one clear sentence, all told together."""

import os
import re
import subprocess
import sys
from datetime import timedelta

import pytest

from config import DEVELOPMENT_JWT_SECRET, ConfigError, Settings, load_settings
from production_rules import RULES
from tests.web_process import ROOT

GOOD = {
    "app_env": "production",
    "database_url": "postgresql://db.example.org/app?sslmode=require",
    "redis_url": "rediss://redis.example.org:6379",
    "jwt_secret": "q8Zr2vXw5uTn7sLk3pYb9dHf4gJc6mRa",
    "otp_delivery": "log",
    "otp_log_in_production": "true",
    "gemini_api_key": "AIza-something",
    "stripe_secret_key": "sk_live_something",
    "stripe_webhook_secret": "whsec_something",
}
TWILIO = {
    "otp_delivery": "twilio",
    "twilio_account_sid": "AC1",
    "twilio_auth_token": "x",
    "twilio_from": "+15005550006",
}


PLAIN = "DATABASE_URL points to another machine without requiring TLS"


@pytest.fixture(autouse=True)
def own_environment(clean_environment, monkeypatch, tmp_path):
    """Work in a folder of the test's own, without any of the developer's variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("FLASK_DEBUG", "APP_ENV", "PGHOST", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)


def load(**changes):
    return load_settings(**{name: value for name, value in (GOOD | changes).items() if value is not None})


def test_production_starts_with_settings_of_its_own(monkeypatch):
    monkeypatch.setenv("APP_ENV", "production\n")
    settings = load(app_env=None)
    assert settings.is_production
    assert settings.rate_limit_per_minute == 120
    assert (settings.codes_per_hour, settings.wrong_codes_per_hour) == (2_000, 2_000)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"jwt_secret": None}, "JWT_SECRET must be set in production."),
        ({"jwt_secret": DEVELOPMENT_JWT_SECRET}, "JWT_SECRET must be set in production."),
        ({"jwt_secret": "short-but-random-8hGf3"}, "JWT_SECRET is too short"),
        ({"jwt_secret": "change-me-to-something-long-and-random"}, "JWT_SECRET is an example"),
        ({"jwt_secret": "an-EXAMPLE-secret-that-is-long-enough"}, "JWT_SECRET is an example"),
        ({"jwt_secret": "changeme" * 4}, "JWT_SECRET is an example"),
        ({"jwt_secret": "change_me_" * 4}, "JWT_SECRET is an example"),
        ({"jwt_secret": ""}, "JWT_SECRET must be set in production."),
        ({"jwt_secret_previous": "short-but-random-8hGf3"}, "JWT_SECRET_PREVIOUS is too short"),
        ({"jwt_secret_previous": DEVELOPMENT_JWT_SECRET}, "JWT_SECRET_PREVIOUS is an example"),
        ({"hash_secret": "short-but-random-8hGf3"}, "HASH_SECRET is too short"),
        ({"hash_secret": "change-me-to-something-long-and-random"}, "HASH_SECRET is an example"),
        ({"hash_secret": DEVELOPMENT_JWT_SECRET}, "HASH_SECRET is an example"),
        ({"stripe_webhook_secret": None}, "STRIPE_WEBHOOK_SECRET must be set in production."),
        ({"stripe_webhook_secret": "whsec_sandbox"}, "STRIPE_WEBHOOK_SECRET is the sandbox's"),
        ({"stripe_secret_key": "sk_test_sandbox"}, "STRIPE_SECRET_KEY is the sandbox's"),
        ({"gemini_api_key": "sandbox-key"}, "GEMINI_API_KEY is the sandbox's"),
        ({"gemini_api_endpoint": "http://0.0.0.0:8081"}, "GEMINI_API_ENDPOINT points to a stand-in"),
        ({"gemini_api_endpoint": "http://[::1]:8081"}, "GEMINI_API_ENDPOINT points to a stand-in"),
        ({"stripe_api_base": "http://localhost:8082"}, "STRIPE_API_BASE points to a stand-in"),
        ({**TWILIO, "twilio_api_base": "http://127.0.0.1:8083"}, "TWILIO_API_BASE points to a stand-in"),
        ({"otp_delivery": None}, "OTP_DELIVERY is `response`"),
        ({"otp_log_in_production": None}, "OTP_DELIVERY is `log`"),
        ({"otp_delivery": "response"}, "OTP_DELIVERY is `response`"),  # one confirmation is not the other
        ({"stripe_secret_key": "sk_test_something"}, "STRIPE_SECRET_KEY is a test key"),
        ({"stripe_secret_key": "rk_test_something"}, "STRIPE_SECRET_KEY is a test key"),
        ({"gemini_api_endpoint": "http://gemini.example.org"}, "GEMINI_API_ENDPOINT lets keys and conversations"),
        ({"stripe_api_base": "HTTP://stripe.example.org"}, "STRIPE_API_BASE"),
        ({**TWILIO, "twilio_api_base": "http://twilio.example.org"}, "TWILIO_API_BASE lets keys and conversations"),
        ({"database_url": "postgres://app:word@db.example.org/app"}, PLAIN),
        ({"database_url": "postgresql://db.example.org/app?sslmode=prefer"}, PLAIN),
        ({"database_url": "postgresql://10.0.0.7:5432/app"}, PLAIN),
        ({"database_url": "postgresql://dpg-a1b2-a/app"}, PLAIN),
        ({"database_url": "postgresql:///app?host=127.0.0.1,db.example.org"}, PLAIN),
        ({"database_url": "postgresql:///app?host=/run/pg&host=db.example.org"}, PLAIN),
        ({"database_url": "postgresql://localhost/app?hostaddr=10.0.0.7"}, PLAIN),
        ({"flask_debug": "1"}, "FLASK_DEBUG must be off in production."),
        ({"redis_url": "rediss://redis.example.org?ssl_cert_reqs=none"}, "REDIS_URL must check the certificate"),
        ({"redis_url": "rediss://redis.example.org?ssl_cert_reqs=optional"}, "REDIS_URL must check the certificate"),
        ({"redis_url": "rediss://redis.example.org?ssl_check_hostname=false"}, "REDIS_URL must check the certificate"),
        ({**TWILIO, "twilio_auth_token": None}, "TWILIO_AUTH_TOKEN must be set when OTP_DELIVERY is `twilio`."),
    ],
)
def test_production_refuses(changes, sentence):
    with pytest.raises(ConfigError) as refusal:
        load(**changes)
    told = str(refusal.value)
    assert told.startswith(sentence)
    assert told.endswith(".")
    assert told.count(". ") == 0, "one sentence"
    for value in changes.values():
        assert not value or len(value) < 10 or value not in told


def test_everything_that_is_wrong_is_told_together():
    wrong = {"jwt_secret": "x", "stripe_webhook_secret": None, "otp_delivery": None, "flask_debug": "1"}
    with pytest.raises(ConfigError) as refusal:
        load(**wrong, gemini_api_key="sandbox-key", port="99999", database_url=None)
    for variable in (
        "JWT_SECRET",
        "STRIPE_WEBHOOK_SECRET",
        "OTP_DELIVERY",
        "FLASK_DEBUG",
        "GEMINI_API_KEY",
        "PORT",
        "DATABASE_URL",
    ):
        assert variable in str(refusal.value)


@pytest.mark.parametrize(("log_format", "logs_json"), [(None, True), ("json", True), ("readable", False)])
def test_production_logs_json_unless_told_otherwise(log_format, logs_json):
    assert load(log_format=log_format).logs_json is logs_json


@pytest.mark.parametrize(
    "changes",
    [
        {"otp_delivery": "response", "otp_response_in_production": "true", "otp_log_in_production": None},
        {**TWILIO, "otp_log_in_production": None},
        {"stripe_secret_key": "sk_test_something", "stripe_test_key_in_production": "true"},
        {"stripe_secret_key": None},
        {"gemini_api_key": None},  # the worker alone uses it
        {"gemini_api_endpoint": "http://gemini.example.org", "plain_http_in_production": "true"},
        {"stripe_api_base": "http://127.0.0.1:8082", "plain_http_in_production": "true"},
        {"database_url": "postgresql://dpg-a1b2-a/app", "plain_database_in_production": "true"},
        {"database_url": "postgresql://db.example.org/app?sslmode=verify-full&sslrootcert=system"},
        {"database_url": "postgresql://db.example.org/app?sslmode=verify-ca"},
        {"database_url": "postgresql://localhost/app"},
        {"database_url": "postgresql://[::1]:5432/app"},
        {"database_url": "postgresql://app@/app?host=/run/postgresql"},
        {"database_url": "postgresql:///app"},
        {"gemini_api_endpoint": "https://gemini.example.org"},
        {"redis_url": "rediss://redis.example.org?ssl_cert_reqs=required"},
        {"redis_url": "redis://10.0.0.7:6379"},
        {"rate_limit_per_minute": "0"},
    ],
)
def test_production_starts(changes):
    assert load(**changes).is_production


def test_every_refusal_that_can_be_confirmed_names_what_confirms_it():
    confirmed = {rule.unless for rule in RULES if rule.unless}
    assert confirmed == {name for name in Settings.model_fields if name.endswith("_in_production")}
    declared = list(Settings.model_fields)
    confirmable = [(rule.unless, setting) for rule in RULES if rule.unless for setting in rule.settings]
    assert all(declared.index(unless) < declared.index(setting) for unless, setting in confirmable)
    with pytest.raises(ConfigError, match=r"; to allow it anyway, set OTP_LOG_IN_PRODUCTION=true\.$"):
        load(otp_log_in_production=None)


def test_libpqs_own_variables_count_for_what_the_url_leaves_open(monkeypatch):
    monkeypatch.setenv("PGHOST", "db.example.org")
    with pytest.raises(ConfigError, match=PLAIN):
        load(database_url="postgresql:///app")
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert load(database_url="postgresql:///app").is_production
    with pytest.raises(ConfigError, match=PLAIN):
        load(database_url="postgresql:///app?sslmode=disable")


@pytest.mark.parametrize("variable", [None, ""])
def test_a_missing_app_env_is_reported_alone(variable, monkeypatch):
    if variable is not None:
        monkeypatch.setenv("APP_ENV", variable)
    with pytest.raises(ConfigError, match=r"^APP_ENV is not set: [^.]+\.$"):
        load(app_env=None, database_url=None, jwt_secret=None)


def test_a_misspelt_environment_is_refused():
    with pytest.raises(ConfigError, match=r"^APP_ENV is wrong: "):
        load(app_env="prod")


def test_development_accepts_what_production_refuses():
    settings = load_settings(
        app_env="development",
        database_url="postgres://db.example.org/app",
        redis_url="redis://localhost",
        gemini_api_key="sandbox-key",
        gemini_api_endpoint="http://127.0.0.1:8081",
        flask_debug="1",
    )
    assert settings.otp_delivery == "response"
    assert settings.jwt_expires_in == timedelta(days=1)
    assert settings.rate_limit_per_minute > 120
    assert (settings.codes_per_hour, settings.wrong_codes_per_hour) == (0, 0)


def test_twilio_needs_its_credentials_everywhere():
    with pytest.raises(ConfigError, match=r"TWILIO_ACCOUNT_SID .*TWILIO_AUTH_TOKEN .*TWILIO_FROM"):
        load(app_env="development", otp_delivery="twilio")


@pytest.mark.parametrize("origins", ["*", "app.example.com", "https://app.example.com/", "https://*.example.com"])
def test_origins_are_named_one_by_one(origins):
    with pytest.raises(ConfigError, match="CORS_ORIGINS is wrong"):
        load(cors_origins=origins)


@pytest.mark.parametrize("duration", ["0", "-1d", "99999999d", "1 week", "inf", "nan", "PT0.001S"])
def test_a_tokens_lifetime_must_be_positive_and_fit_into_a_date(duration):
    with pytest.raises(ConfigError, match="JWT_EXPIRES_IN is wrong"):
        load(jwt_expires_in=duration)


@pytest.mark.parametrize("codes", ["Germany", "+", "0", "4915"])
def test_country_codes_must_be_calling_codes_or_regions(codes):
    with pytest.raises(ConfigError, match="ALLOWED_COUNTRY_CODES is wrong"):
        load(allowed_country_codes=codes)


ENV_TEXT = "APP_ENV=development\nBASIC_DAILY_PROMPTS=1\nDATABASE_URL=postgres://x/y\nREDIS_URL=redis://x\n"


@pytest.fixture
def env_file(tmp_path):
    """A developer's own file, in the folder that the process starts in."""
    file = tmp_path / ".env"
    file.write_text(ENV_TEXT)
    return file


def prompts_of_a_process(folder):
    program = "from config import load_settings; print(load_settings().basic_daily_prompts)"
    environ = os.environ | {"PYTHONPATH": str(ROOT), "DATABASE_URL": "postgres://z/z", "REDIS_URL": "redis://z"}
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, env=environ, capture_output=True, check=True)
    return int(done.stdout)


def test_an_env_file_of_the_developer_reaches_neither_a_test_nor_its_processes(env_file, monkeypatch):
    monkeypatch.setenv("APP_ENV", "development")
    assert load_settings(database_url="postgres://z/z", redis_url="redis://z").basic_daily_prompts == 5
    assert prompts_of_a_process(env_file.parent) == 5


def test_the_env_file_is_read_in_development(env_file, monkeypatch):
    monkeypatch.delenv("ENV_FILE")
    assert load_settings().basic_daily_prompts == 1
    assert prompts_of_a_process(env_file.parent) == 1


def test_another_env_file_may_be_named(env_file, monkeypatch, tmp_path):
    (tmp_path / "other").write_text(ENV_TEXT.replace("=1", "=2"))
    monkeypatch.setenv("ENV_FILE", str(tmp_path / "other"))
    assert load_settings().basic_daily_prompts == 2
    assert prompts_of_a_process(tmp_path) == 2


def test_production_cannot_be_set_in_a_file_that_it_does_not_read(env_file, monkeypatch):
    monkeypatch.delenv("ENV_FILE")
    env_file.write_text(ENV_TEXT.replace("development", "production"))
    with pytest.raises(ConfigError, match=r"^APP_ENV is `production` in a file"):
        load(app_env=None)


COMMANDS = [
    ["gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"],
    ["celery", "-A", "celery_worker", "worker"],
    ["celery_beat"],
    ["flask", "--app", "wsgi", "db", "upgrade"],
]


def last_words(command, **variables):
    """Return what a process prints that refuses to start."""
    environ = {"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, "FLASK_SKIP_DOTENV": "1"} | variables
    environ |= {"REDIS_URL": "redis://x", "DATABASE_URL": "postgres://x"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode != 0
    return done.stderr


@pytest.mark.processes
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_process_without_app_env_says_so_in_one_sentence_and_ends(command):
    said = last_words(command)
    assert said.startswith("Configuration: APP_ENV is not set: ")
    assert (said.count("\n"), said.count(".")) == (1, 1)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("variable", "given"),
    [("WEB_CONCURRENCY", "0"), ("WEB_CONCURRENCY", "9999"), ("WEB_THREADS", "x"), ("WEB_THREADS", "0")],
)
def test_web_without_processes_or_threads_does_not_start(variable, given):
    said = last_words(COMMANDS[0], APP_ENV="development", **{variable: given})
    assert said.startswith(f"Configuration: {variable} is wrong: ")
    assert said.count("\n") == 1


@pytest.mark.processes
@pytest.mark.parametrize(("given", "threads"), [("", 256), (" 8 ", 8)])
def test_web_without_a_number_of_threads_has_the_default(given, threads, clean_environment):
    assert printed_numbers(given)["threads"] == threads


@pytest.mark.processes
@pytest.mark.parametrize("threads", [8, 1_000, 10_000])
def test_web_takes_more_connections_than_it_has_threads(threads, clean_environment):
    """gunicorn accepts no more than that number, and keeps none open between requests unless some are to spare."""
    assert printed_numbers(str(threads))["worker_connections"] >= max(1_000, 2 * threads)


def printed_numbers(web_threads: str) -> dict[str, int]:
    """Return gunicorn's settings that are whole numbers, as it prints them."""
    environ = os.environ | {"APP_ENV": "development", "DATABASE_URL": "postgres://x", "REDIS_URL": "redis://x"}
    done = subprocess.run(
        [sys.executable, "-m", *COMMANDS[0], "--print-config"],
        cwd=ROOT,
        env=environ | {"WEB_THREADS": web_threads},
        capture_output=True,
        text=True,
        check=True,
    )
    return {name: int(number) for name, number in re.findall(r"^(\w+) += (\d+)$", done.stdout, re.M)}


@pytest.mark.processes
@pytest.mark.parametrize("command", COMMANDS[:2], ids=" ".join)
def test_a_process_with_missing_settings_says_so_without_a_traceback_and_ends(command):
    said = last_words(command, APP_ENV="production")
    assert "JWT_SECRET must be set in production." in said
    assert "STRIPE_WEBHOOK_SECRET must be set in production." in said
    assert "Traceback" not in said
