"""Settings: what production refuses to start with, each in one clear sentence, all told together."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest

from config import DEVELOPMENT_JWT_SECRET, ConfigError, load_settings
from tests.conftest import ROOT

GOOD = {
    "app_env": "production",
    "database_url": "postgresql://db.example.org/app",
    "redis_url": "rediss://redis.example.org:6379",
    "jwt_secret": "q8Zr2vXw5uTn7sLk3pYb9dHf4gJc6mRa",
    "otp_delivery": "log",
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


@pytest.fixture(autouse=True)
def own_environment(clean_environment, monkeypatch, tmp_path):
    """A folder of its own, and none of the developer's variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("FLASK_DEBUG", "APP_ENV"):
        monkeypatch.delenv(name, raising=False)


def load(**changes):
    return load_settings(**{name: value for name, value in (GOOD | changes).items() if value is not None})


def test_production_starts_with_settings_of_its_own():
    settings = load()
    assert settings.is_production
    assert settings.rate_limit_per_minute == 120


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"jwt_secret": None}, "JWT_SECRET must be set in production."),
        ({"jwt_secret": DEVELOPMENT_JWT_SECRET}, "JWT_SECRET must be set in production."),
        ({"jwt_secret": "short-but-random-8hGf3"}, "JWT_SECRET is too short"),
        ({"jwt_secret": "change-me-to-something-long-and-random"}, "JWT_SECRET is an example"),
        ({"jwt_secret": "an-EXAMPLE-secret-that-is-long-enough"}, "JWT_SECRET is an example"),
        ({"jwt_secret": ""}, "JWT_SECRET must be set in production."),
        ({"jwt_secret_previous": "short-but-random-8hGf3"}, "JWT_SECRET_PREVIOUS is too short"),
        ({"jwt_secret_previous": DEVELOPMENT_JWT_SECRET}, "JWT_SECRET_PREVIOUS must be another"),
        ({"hash_secret": "short-but-random-8hGf3"}, "HASH_SECRET is too short"),
        ({"hash_secret": "change-me-to-something-long-and-random"}, "HASH_SECRET is an example"),
        ({"hash_secret": DEVELOPMENT_JWT_SECRET}, "HASH_SECRET must be another"),
        ({"stripe_webhook_secret": None}, "STRIPE_WEBHOOK_SECRET must be set in production."),
        ({"stripe_webhook_secret": "whsec_sandbox"}, "STRIPE_WEBHOOK_SECRET is the sandbox's"),
        ({"stripe_secret_key": "sk_test_sandbox"}, "STRIPE_SECRET_KEY is the sandbox's"),
        ({"gemini_api_key": "sandbox-key"}, "GEMINI_API_KEY is the sandbox's"),
        ({"gemini_api_endpoint": "http://127.0.0.1:8081"}, "GEMINI_API_ENDPOINT is a stand-in's"),
        ({"gemini_api_endpoint": "http://[::1]:8081"}, "GEMINI_API_ENDPOINT is a stand-in's"),
        ({"stripe_api_base": "http://localhost:8082"}, "STRIPE_API_BASE is a stand-in's"),
        ({**TWILIO, "twilio_api_base": "http://127.0.0.1:8083"}, "TWILIO_API_BASE is a stand-in's"),
        ({"otp_delivery": "response"}, "OTP_DELIVERY is `response`"),
        ({"otp_delivery": None}, "OTP_DELIVERY is `response`"),
        ({"flask_debug": "1"}, "FLASK_DEBUG must be off in production."),
        ({"redis_url": "rediss://redis.example.org?ssl_cert_reqs=none"}, "REDIS_URL must check the certificate"),
        ({"redis_url": "rediss://redis.example.org?ssl_cert_reqs=CERT_NONE"}, "REDIS_URL must check the certificate"),
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


@pytest.mark.parametrize(
    "changes",
    [
        {"otp_delivery": "response", "otp_response_in_production": "true"},
        TWILIO,
        {"gemini_api_endpoint": "https://gemini.example.org"},
        {"redis_url": "rediss://redis.example.org?ssl_cert_reqs=required"},
        {"redis_url": "redis://10.0.0.7:6379"},
        {"rate_limit_per_minute": "0"},
    ],
)
def test_production_starts(changes):
    assert load(**changes).is_production


def test_development_takes_all_of_it():
    settings = load_settings(
        database_url="postgres://localhost/app",
        redis_url="redis://localhost",
        gemini_api_key="sandbox-key",
        gemini_api_endpoint="http://127.0.0.1:8081",
        flask_debug="1",
    )
    assert settings.otp_delivery == "response"
    assert settings.jwt_expires_in == timedelta(days=1)
    assert settings.rate_limit_per_minute > 120


def test_twilio_needs_its_credentials_everywhere():
    with pytest.raises(ConfigError, match=r"TWILIO_ACCOUNT_SID .*TWILIO_AUTH_TOKEN .*TWILIO_FROM"):
        load(app_env="development", otp_delivery="twilio")


@pytest.mark.parametrize("origins", ["*", "app.example.com", "https://app.example.com/", "https://*.example.com"])
def test_origins_are_named_one_by_one(origins):
    with pytest.raises(ConfigError, match="CORS_ORIGINS is wrong"):
        load(cors_origins=origins)


@pytest.mark.parametrize("codes", ["Germany", "+", "0", "4915"])
def test_country_codes_are_calling_codes_or_regions(codes):
    with pytest.raises(ConfigError, match="ALLOWED_COUNTRY_CODES is wrong"):
        load(allowed_country_codes=codes)


@pytest.fixture
def env_file(tmp_path):
    """A developer's own file, in the folder that the process starts in."""
    file = tmp_path / ".env"
    file.write_text("BASIC_DAILY_PROMPTS=1\nDATABASE_URL=postgres://x/y\nREDIS_URL=redis://x\n")
    return file


def prompts_of_a_process(folder):
    program = "from config import load_settings; print(load_settings().basic_daily_prompts)"
    environ = os.environ | {"PYTHONPATH": str(ROOT), "DATABASE_URL": "postgres://z/z", "REDIS_URL": "redis://z"}
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, env=environ, capture_output=True, check=True)
    return int(done.stdout)


def test_an_env_file_of_the_developer_reaches_neither_a_test_nor_its_processes(env_file):
    assert load_settings(database_url="postgres://z/z", redis_url="redis://z").basic_daily_prompts == 5
    assert prompts_of_a_process(env_file.parent) == 5


def test_the_env_file_is_read_in_development(env_file, monkeypatch):
    monkeypatch.delenv("ENV_FILE")
    assert load_settings().basic_daily_prompts == 1
    assert prompts_of_a_process(env_file.parent) == 1


def test_another_env_file_may_be_named(env_file, monkeypatch, tmp_path):
    (tmp_path / "other").write_text("BASIC_DAILY_PROMPTS=2\nDATABASE_URL=postgres://x/y\nREDIS_URL=redis://x\n")
    monkeypatch.setenv("ENV_FILE", str(tmp_path / "other"))
    assert load_settings().basic_daily_prompts == 2
    assert prompts_of_a_process(tmp_path) == 2


@pytest.mark.parametrize(
    "command", [["gunicorn", "--check-config", "wsgi:app"], ["celery", "-A", "celery_worker", "report"]]
)
def test_process_says_it_in_one_line_and_ends(command):
    environ = {
        "PATH": os.environ["PATH"],
        "APP_ENV": "production",
        "REDIS_URL": "redis://x",
        "DATABASE_URL": "postgres://x",
    }
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode != 0
    assert "JWT_SECRET must be set in production." in done.stderr
    assert "STRIPE_WEBHOOK_SECRET must be set in production." in done.stderr
    assert "Traceback" not in done.stderr
