"""Addresses and numbers with which no process starts, in production or not, because nothing would work."""

import re
from datetime import timedelta

import pytest
from pydantic import AfterValidator

from config import ConfigError, Settings, load_settings
from production_rules import API_ADDRESSES, check_header_value, refusal, with_host

NEEDED = {"app_env": "development", "database_url": "postgres://x/y", "redis_url": "redis://x"}


@pytest.fixture(autouse=True)
def own_folder(clean_environment, monkeypatch, tmp_path):
    """Work in a folder without a `.env`."""
    monkeypatch.chdir(tmp_path)


def load(**changes):
    return load_settings(**NEEDED | changes)


ADDRESSES = [name for name, field in Settings.model_fields.items() if AfterValidator(with_host) in field.metadata]
KEYS = [name for name, field in Settings.model_fields.items() if AfterValidator(check_header_value) in field.metadata]


NO_DATABASES = [
    "mysql://x/y",
    "nothing",
    "postgresql://x:port/y",
    "postgresql://x:99999/y",
    "postgresql:///y?host=a:1&host=b:port",
    "postgresql://me:hush@x/y?schema=public",
    "postgresql://x/y?pgbouncer=true",
    "postgresql://x/y?sslmode=require&connection_limit=5",
    "postgresql://x/y?cursor_factory=dict",
    "postgresql://x/y?database=z",
    "postgresql://x/y?sslmode=bogus",
    "postgresql://x/y?sslmode=require&sslmode=disable",
    "postgresql://me:pa@hush@x/y",
    "postgresql://me:pa@hush/hush@x/y",
    "postgresql://me:pa@hush?hush@x/y",
    "postgresql://x .hush/y",
    "postgresql://me:hush@hush?hush=1@x/y",  # a password with what a URL would have as %40 and %3F
]
NO_REDIS = [
    "valkey://x",
    "nothing",
    "redis://",
    "redis:///3",
    "redis://:6379",
    "redis://x:hush",
    "redis://x:99999",
    "redis://[::1",
    "redis://x/main",
    "redis://x/0/1",
    "redis://x/0#1",
    "redis://:hush/hush@x",
    "redis://x?db=3",
    "redis://x?password=hush",
    "redis://x?username=me",
    "redis://x/0?decode_responses=true",
    "redis://x?protocol=3",
    "redis://x?socket_timeout=20",
    "redis://x?ssl_cert_reqs=required",
    "rediss://x?ssl_cert_reqs=CERT_REQUIRED",
    "rediss://x?ssl_check_hostname=0",
    "rediss://x?ssl_min_version=TLSv1_2",
    "rediss://x?ssl_ca_certs",
    "rediss://x?ssl_password=pa%2541ss",  # redis-py reads "paAss", and kombu "pa%41ss"
    "rediss://x?ssl_password=pa%%341ss",
]
NO_WEB = [
    "https://",
    "http://:80",
    "https:///v1",
    "https://?x",
    "https://x:0",
    "https://x:99999",
    "https://x:y",
    "https://x..y",
    "http://[::1",
]
WEB_ADDRESSES = [name for name in ADDRESSES if name != "redis_url"]
NOT_CALLED_WITH_KEYS = {"redis_url", "frontend_url", "otel_exporter_otlp_endpoint"}


@pytest.mark.parametrize(
    ("setting", "address"),
    [("database_url", address) for address in NO_DATABASES]
    + [("redis_url", address) for address in NO_REDIS]
    + [("gemini_api_endpoint", address) for address in NO_WEB]
    + [(setting, address) for setting in WEB_ADDRESSES for address in ("https://", "ftp://x")],
)
def test_an_address_that_no_client_can_use_is_refused_in_one_sentence_that_does_not_show_it(setting, address):
    with pytest.raises(ConfigError) as refusal:
        load(**{setting: address})
    sentence = str(refusal.value)
    assert sentence.startswith(f"{setting.upper()} is wrong: ")
    assert sentence.endswith(".")
    assert sentence.count(". ") == 0
    assert "hush" not in sentence


@pytest.mark.parametrize(
    ("setting", "address"),
    [
        ("database_url", "postgresql://u:p%40ss@[::1]:5432/app?connect_timeout=10&application_name=x"),
        ("database_url", "postgresql://u:p@a,b/app?target_session_attrs=read-write"),
        ("database_url", "postgresql:///app?host=a:1&host=b:2&sslmode=verify-full&channel_binding=require"),
        ("database_url", "postgresql://"),
        ("redis_url", "redis://:hush%2F@x:6380/15"),
        ("redis_url", "redis://redis_1/"),
        ("redis_url", "redis://[::1]:6379/0"),
        ("redis_url", "rediss://x?ssl_ca_certs=/etc/ca.pem&ssl_certfile=a&ssl_keyfile=b&ssl_check_hostname=false"),
        ("redis_url", "rediss://x?ssl_ca_path=/etc/certificates&ssl_password=w%2Fo%2Brd"),
        ("gemini_api_endpoint", "http://[::1]:8081/prefix"),
        ("frontend_url", "https://app.example.com:8443/#"),
        ("otel_exporter_otlp_endpoint", "http://collector:4318"),
        ("otel_exporter_otlp_endpoint", ""),
    ],
)
def test_an_address_that_clients_can_use_is_accepted(setting, address):
    assert getattr(load(**{setting: address}), setting).endswith(address.partition(":")[2])


def test_production_knows_the_address_of_every_outside_service():
    unknown = {*ADDRESSES} - {*API_ADDRESSES} - NOT_CALLED_WITH_KEYS
    assert not unknown, f"production would send keys to {sorted(unknown)} over plain http: add it to API_ADDRESSES"


def test_production_accepts_that_an_outside_service_has_no_address():
    assert [name for name in API_ADDRESSES if refusal(name, "", {})] == []


@pytest.mark.parametrize("setting", KEYS)
@pytest.mark.parametrize("key", ["sk_hush\u200b", "sk_hush\nsk_more", "sk hush", "ключ"])
def test_a_key_that_no_request_could_carry_is_refused_without_showing_it(setting, key):
    with pytest.raises(ConfigError, match=f"^{setting.upper()} is wrong: must consist of visible ") as refusal:
        load(**{setting: key})
    assert "hush" not in str(refusal.value)


@pytest.mark.parametrize(
    ("variable", "given", "value"),
    [
        ("APP_ENV", "development\n", "development"),
        ("AUTO_TITLE", " false\r\n", False),
        ("GEMINI_SDK", "google-genai ", "google-genai"),
        ("OTP_DELIVERY", "\tlog", "log"),
        ("STRIPE_SECRET_KEY", "sk_test_1\n", "sk_test_1"),
        ("PORT", " ", 5000),
        ("GEMINI_SYSTEM_INSTRUCTION", "\n", Settings.model_fields["gemini_system_instruction"].default),
    ],
)
def test_blanks_around_a_value_are_removed(variable, given, value, monkeypatch):
    for name, text in {"APP_ENV": "development", "DATABASE_URL": "postgres://x/y", "REDIS_URL": "redis://x"}.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv(variable, given)
    assert getattr(load_settings(), variable.lower()) == value


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ("gemini-3.5-flash", "must look like `name:basic,name:pro`."),
        ("gemini-3.5-flash:gold", "must look like `name:basic,name:pro`."),
        ("gemini-3.5-flash:basic,:pro", "must look like `name:basic,name:pro`."),
        ("gemini-3.5-flash:basic,models/gemini-3.5-pro:pro", "must look like `name:basic,name:pro`."),
        ("gemini-3.5-flash:basic,gemini-3.5-flash:pro", "names a model twice."),
        ("gemini-3.5-pro:basic", "must include GEMINI_MODEL for `basic`."),
        ("gemini-3.5-flash:pro", "must include GEMINI_MODEL for `basic`."),
    ],
)
def test_a_list_of_models_that_nobody_could_use_is_refused(models, sentence):
    with pytest.raises(ConfigError, match=f"^GEMINI_MODELS {re.escape(sentence)}$"):
        load(gemini_models=models)


@pytest.mark.parametrize("models", ["", "gemini-3.5-flash:basic"])
def test_an_impossible_name_of_a_model_is_reported_once(models):
    with pytest.raises(ConfigError, match=r"^GEMINI_MODEL is wrong: .*pattern '[^']+'\.$"):
        load(gemini_model="models/gemini-3.5-flash", gemini_models=models)


@pytest.mark.parametrize(
    ("price", "sentence"),
    [
        ("gemini-3.5-flash:0.30:2.50", "each price must look like "),
        ("gemini-3.5-flash:2026-13-01:0.30:2.50", "each price must look like "),
        ("gemini-3.5-flash:2026-01-01:free:2.50", "each price must look like "),
        ("gemini-3.5-flash:2026-01-01:-0.30:2.50", "each price must be a number, 0 or more"),
        ("gemini-3.5-flash:2026-01-01:0.30:-2.50", "each price must be a number, 0 or more"),
        ("gemini-3.5-flash:2026-01-01:inf:2.50", "each price must be a number, 0 or more"),
        ("gemini-3.5-flash:2026-01-01:0.30:nan", "each price must be a number, 0 or more"),
    ],
)
def test_an_impossible_price_is_refused(price, sentence):
    with pytest.raises(ConfigError, match=f"^MODEL_PRICES is wrong: {sentence}"):
        load(model_prices=f"gemini-3.5-pro:2026-01-01:0:0, {price}")


@pytest.mark.parametrize(
    ("duration", "seconds"), [("90", 90), ("45s", 45), ("30m", 1_800), ("12 H", 43_200), ("1d", 86_400)]
)
def test_a_duration_is_a_number_with_its_unit(duration, seconds):
    assert load(jwt_expires_in=duration).jwt_expires_in == timedelta(seconds=seconds)


NUMBERS = [
    name for name, field in Settings.model_fields.items() if re.search(r"\b(int|float)\b", str(field.annotation))
]


@pytest.mark.parametrize("setting", NUMBERS)
def test_every_number_has_bounds(setting):
    for number in ("-1", "inf", "-inf", "nan", "1e12", "9" * 30, "x"):
        with pytest.raises(ConfigError, match=rf"^{setting.upper()} is wrong: "):
            load(**{setting: number})
