"""Every environment variable, read and validated in one place.

`load_settings()` is called by the app factory and the entry points alone; everything else is handed the
`Settings` it returns. A wrong value stops the start with one clear sentence for each variable.
"""

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qs, urlsplit

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

DEVELOPMENT_JWT_SECRET = "development-only-secret-change-it-before-production"  # noqa: S105 - refused in production
Value = TypeVar("Value")

REFUSED = "refused"
MIN_SECRET_BYTES = 32  # RFC 7518, 3.2: a key for HS256 is at least as long as the hash
EXAMPLE_MARKS = ("change-me", "changeme", "change-it", "change_me", "example")
SANDBOX_MARK = "sandbox"  # in every key that the stand-ins of the sandbox take
PRODUCTION_REQUESTS_PER_MINUTE = 120
DEVELOPMENT_REQUESTS_PER_MINUTE = 6_000  # all of a team's tests come from one address
UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class ConfigError(Exception):
    """A setting is missing or wrong; the message names it in one sentence for the operator."""


class AppEnv(StrEnum):
    """Where the service runs."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


class OtpDelivery(StrEnum):
    """How one-time codes reach their owner."""

    RESPONSE = "response"
    LOG = "log"
    TWILIO = "twilio"


class GeminiSdk(StrEnum):
    """Which of Google's libraries the worker calls Gemini with."""

    GOOGLE_GENERATIVEAI = "google-generativeai"
    GOOGLE_GENAI = "google-genai"


def parse_duration(value: Any) -> Any:
    """`1d`, `12h`, `30m`, `45s` or plain seconds as a timedelta; anything else passes on to be refused."""
    match = re.fullmatch(r"(\d{1,9})\s*([smhd]?)", str(value).strip().lower())
    return timedelta(seconds=int(match[1]) * UNIT_SECONDS[match[2]]) if match else value


def split_on_commas(value: Any) -> Any:
    """`a, b` as ["a", "b"]."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def calling_codes_and_regions(value: Any) -> Any:
    """`+49, at` as ["49", "AT"]: calling codes without their plus, regions as ISO 3166-1 writes them."""
    return [part.lstrip("+").upper() for part in split_on_commas(value)]


Duration = Annotated[timedelta, BeforeValidator(parse_duration), Field(gt=timedelta(0))]
Origin = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.-]+(:\d{1,5})?$")]
CountryCode = Annotated[str, Field(pattern=r"^([1-9]\d{0,2}|[A-Z]{2})$")]
OriginList = Annotated[list[Origin], NoDecode, BeforeValidator(split_on_commas)]
CountryList = Annotated[list[CountryCode], NoDecode, BeforeValidator(calling_codes_and_regions)]


class Settings(BaseSettings):
    """All settings: the variable is the field's name in capitals."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        str_strip_whitespace=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    # The process
    app_env: AppEnv = AppEnv.DEVELOPMENT
    flask_debug: bool = False
    port: int = Field(5000, ge=1, le=65_535)
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    trusted_proxies: int = Field(0, ge=0, le=10, description="How many proxies in front add to X-Forwarded-For")
    log_format: Literal["", "json", "readable"] = Field("", description="Empty: json in production, else readable")
    metrics_token: str = Field("", description="Bearer token of /metrics; without it there is none in production")

    # Where data lives
    database_url: str
    database_pool_size: int = Field(20, ge=1, le=200, description="Connections of one process")
    redis_url: str = Field(pattern="^rediss?://")

    # Accounts
    jwt_secret: str = DEVELOPMENT_JWT_SECRET
    jwt_secret_previous: str = Field("", description="Tokens signed with it still count, during a rotation")
    hash_secret: str = Field("", description="Keys the hashes of numbers and codes; JWT_SECRET when empty")
    jwt_expires_in: Duration = timedelta(days=1)
    refresh_expires_in: Duration = timedelta(days=30)
    otp_delivery: OtpDelivery = OtpDelivery.RESPONSE
    otp_response_in_production: bool = False
    allowed_country_codes: CountryList = []
    twilio_account_sid: str = ""
    twilio_auth_token: str = ""
    twilio_from: str = Field("", description="A number of the account's, or a messaging service (MG…)")
    twilio_api_base: str = Field("https://api.twilio.com", pattern="^https?://")

    # Gemini
    gemini_api_key: str = ""
    gemini_sdk: GeminiSdk = GeminiSdk.GOOGLE_GENERATIVEAI
    gemini_model: str = Field("gemini-3.5-flash", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    gemini_api_endpoint: str = Field("https://generativelanguage.googleapis.com", pattern="^https?://")
    gemini_timeout: float = Field(30, gt=0, le=600, description="Seconds for one attempt as a whole")
    gemini_system_instruction: str = (
        "You are a helpful assistant in a chat. Answer in the language of the question, clearly and to the point."
    )
    gemini_history_max_chars: int = Field(48_000, ge=8_000, description="Characters of earlier turns sent along")

    # Replies
    reply_max_attempts: int = Field(6, ge=1, le=100, description="Attempts at one reply that may fail")
    reply_max_seconds: float = Field(120, gt=0, description="Seconds from the first attempt to the last")
    reply_lease_seconds: float = Field(12, ge=1, le=300, description="How long a dead worker keeps a reply")
    reply_requeue_after_seconds: float = Field(8, ge=1, le=300, description="When a queued reply's task is lost")
    reply_sweep_seconds: float = Field(4, ge=0.5, le=60, description="How often the sweeper looks")

    # Stripe
    stripe_secret_key: str = ""
    stripe_pro_price_id: str = ""
    stripe_webhook_secret: str = ""
    stripe_api_base: str = Field("https://api.stripe.com", pattern="^https?://")
    stripe_timeout: float = Field(10, gt=0, le=12, description="Seconds for all of a request's calls together")
    stripe_grace_days: float = Field(3, ge=0, le=60, description="How long an unpaid subscription stays Pro")
    billing_sync_seconds: float = Field(900, ge=1, description="How often our copies are compared with Stripe's")

    # Limits
    basic_daily_prompts: int = Field(5, ge=0, le=100_000)
    rate_limit_per_minute: int | None = Field(None, ge=0, description="Per user or IP; 0 lifts every such limit")
    streams_per_user: int = Field(10, ge=1, description="Replies that one user may follow at once")
    streams_per_process: int = Field(200, ge=1, description="Replies that are followed in one web process at once")
    chatroom_list_ttl_seconds: int = Field(300, ge=1)

    # Clients
    frontend_url: str = Field("http://localhost:3000", pattern="^https?://")
    cors_origins: OriginList = []

    @field_validator("database_url")
    @classmethod
    def name_the_driver(cls, url: str) -> str:
        """SQLAlchemy 2.1 reads `postgresql://` as psycopg 3 and refuses `postgres://`; this service runs psycopg2."""
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg2"}:
            raise ValueError("must start with postgres:// or postgresql://")
        return f"postgresql+psycopg2://{rest}"

    @field_validator("rate_limit_per_minute")
    @classmethod
    def choose_by_environment(cls, value: int | None, info: ValidationInfo) -> int:
        """Unset it is strict in production alone."""
        if value is not None:
            return value
        return PRODUCTION_REQUESTS_PER_MINUTE if in_production(info) else DEVELOPMENT_REQUESTS_PER_MINUTE

    @field_validator("flask_debug")
    @classmethod
    def no_debugger(cls, value: bool, info: ValidationInfo) -> bool:
        return must(value, not (value and in_production(info)), "FLASK_DEBUG must be off in production.")

    @field_validator("redis_url")
    @classmethod
    def check_certificates(cls, value: str, info: ValidationInfo) -> str:
        options = parse_qs(urlsplit(value).query.lower())
        unchecked = {"none", "optional", "cert_none", "cert_optional"} & {*options.get("ssl_cert_reqs", [])}
        unchecked |= {"false", "0", "no"} & {*options.get("ssl_check_hostname", [])}
        fine = not (in_production(info) and value.startswith("rediss://") and unchecked)
        return must(value, fine, "REDIS_URL must check the certificate in production: remove ssl_cert_reqs from it.")

    @field_validator("jwt_secret", "jwt_secret_previous", "hash_secret")
    @classmethod
    def own_secret(cls, value: str, info: ValidationInfo) -> str:
        """JWT_SECRET must be there; the other two may be left out, and are held to the same when they are not."""
        variable = str(info.field_name).upper()
        is_required = variable == "JWT_SECRET"
        if not in_production(info) or not (value or is_required):
            return value
        lack = "must be set in production." if is_required else "must be another one in production than in development."
        must(value, value not in {"", DEVELOPMENT_JWT_SECRET}, f"{variable} {lack}")
        is_example = any(mark in value.lower() for mark in EXAMPLE_MARKS)
        must(value, not is_example, f"{variable} is an example: make one of your own for production.")
        return must(
            value,
            len(value.encode()) >= MIN_SECRET_BYTES,
            f"{variable} is too short for production: it needs at least {MIN_SECRET_BYTES} bytes.",
        )

    @field_validator("otp_response_in_production")
    @classmethod
    def confirm_otp_response(cls, value: bool, info: ValidationInfo) -> bool:
        shown = in_production(info) and info.data.get("otp_delivery") is OtpDelivery.RESPONSE
        return must(
            value,
            value or not shown,
            "OTP_DELIVERY is `response`, which tells anybody anybody's code: choose another one for production, or "
            "say it again with OTP_RESPONSE_IN_PRODUCTION=true.",
        )

    @field_validator("twilio_account_sid", "twilio_auth_token", "twilio_from")
    @classmethod
    def with_credentials(cls, value: str, info: ValidationInfo) -> str:
        needed = info.data.get("otp_delivery") is OtpDelivery.TWILIO
        variable = str(info.field_name).upper()
        return must(value, bool(value) or not needed, f"{variable} must be set when OTP_DELIVERY is `twilio`.")

    @field_validator("stripe_webhook_secret")
    @classmethod
    def with_webhook_secret(cls, value: str, info: ValidationInfo) -> str:
        fine = bool(value) or not in_production(info)
        return must(value, fine, "STRIPE_WEBHOOK_SECRET must be set in production.")

    @field_validator("gemini_api_key", "stripe_secret_key", "stripe_webhook_secret")
    @classmethod
    def no_sandbox_key(cls, value: str, info: ValidationInfo) -> str:
        fine = not (in_production(info) and SANDBOX_MARK in value.lower())
        return must(value, fine, f"{str(info.field_name).upper()} is the sandbox's, which production must not use.")

    @field_validator("gemini_api_endpoint", "stripe_api_base", "twilio_api_base")
    @classmethod
    def no_stand_in(cls, value: str, info: ValidationInfo) -> str:
        fine = not (in_production(info) and is_on_this_machine(value))
        return must(value, fine, f"{str(info.field_name).upper()} is a stand-in's, which production must not use.")

    @property
    def is_production(self) -> bool:
        return self.app_env is AppEnv.PRODUCTION

    @property
    def logs_json(self) -> bool:
        return self.log_format == "json" or (not self.log_format and self.is_production)


def in_production(info: ValidationInfo) -> bool:
    return info.data.get("app_env") is AppEnv.PRODUCTION


def must(value: Value, condition: bool, refusal: str) -> Value:
    """The value, or a refusal to start: a whole sentence that names the variable."""
    if not condition:
        raise PydanticCustomError(REFUSED, "{refusal}", {"refusal": refusal})
    return value


def is_on_this_machine(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ip_address(host).is_loopback or ip_address(host).is_unspecified
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def env_file() -> str:
    """The file that development reads variables from; one that is not there, such as /dev/null, says nothing."""
    return os.environ.get("ENV_FILE") or ".env"


def load_settings(**overrides: Any) -> Settings:
    """Read the environment, and in development ENV_FILE (`.env` when it is not set), into `Settings`.

    overrides: fields that win over the environment.
    Raises ConfigError with one sentence for each variable that is missing or wrong.
    """
    is_production = os.environ.get("APP_ENV", "").strip().lower() == AppEnv.PRODUCTION
    try:
        return Settings(_env_file=None if is_production else env_file(), **overrides)
    except ValidationError as error:
        raise ConfigError(" ".join(sentence(problem) for problem in error.errors())) from None


def sentence(problem: Mapping[str, Any]) -> str:
    """A pydantic error as a sentence that names the variable and never repeats its value."""
    variable = str(problem["loc"][0]).upper() if problem["loc"] else "The configuration"
    if problem["type"] == REFUSED:
        return str(problem["msg"])
    if problem["type"] == "missing":
        return f"{variable} is not set."
    return f"{variable} is wrong: {problem['msg'].removeprefix('Value error, ')}."
