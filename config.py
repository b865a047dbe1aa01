"""Every environment variable, read and validated in one place.

`load_settings()` is called by the app factory and the entry points alone; everything else is handed the
`Settings` it returns. A wrong value stops the start with one clear sentence for each variable.
"""

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

DEVELOPMENT_JWT_SECRET = "development-only-secret-change-it-before-production"  # noqa: S105 - refused in production
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


Duration = Annotated[timedelta, BeforeValidator(parse_duration), Field(gt=timedelta(0))]
CommaList = Annotated[list[str], NoDecode, BeforeValidator(split_on_commas)]


class Settings(BaseSettings):
    """All settings: the variable is the field's name in capitals."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        str_strip_whitespace=True,
        hide_input_in_errors=True,
    )

    # The process
    app_env: AppEnv = AppEnv.DEVELOPMENT
    port: int = Field(5000, ge=1, le=65_535)
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    # Where data lives
    database_url: str
    database_pool_size: int = Field(10, ge=1, le=200, description="Connections of one process")
    redis_url: str = Field(pattern="^rediss?://")

    # Accounts
    jwt_secret: str = DEVELOPMENT_JWT_SECRET
    jwt_expires_in: Duration = timedelta(days=1)
    refresh_expires_in: Duration = timedelta(days=30)
    otp_delivery: OtpDelivery = OtpDelivery.RESPONSE
    otp_response_in_production: bool = False

    # Gemini
    gemini_api_key: str = ""
    gemini_sdk: GeminiSdk = GeminiSdk.GOOGLE_GENERATIVEAI
    gemini_model: str = Field("gemini-3.5-flash", min_length=1, max_length=100)
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
    reply_ring_again_seconds: float = Field(8, ge=1, le=300, description="When a queued reply's bell counts as lost")
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
    rate_limit_per_minute: int = Field(120, ge=0, description="Per user or IP; 0 lifts every such limit")
    streams_per_user: int = Field(10, ge=1, description="Replies that one user may follow at once")
    streams_per_process: int = Field(200, ge=1, description="Replies that are followed in one web process at once")
    chatroom_list_ttl_seconds: int = Field(300, ge=1)

    # Clients
    frontend_url: str = Field("http://localhost:3000", pattern="^https?://")
    cors_origins: CommaList = []

    @field_validator("database_url")
    @classmethod
    def name_the_driver(cls, url: str) -> str:
        """SQLAlchemy 2.1 reads `postgresql://` as psycopg 3 and refuses `postgres://`; this service runs psycopg2."""
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg2"}:
            raise ValueError("must start with postgres:// or postgresql://")
        return f"postgresql+psycopg2://{rest}"

    @property
    def is_production(self) -> bool:
        return self.app_env is AppEnv.PRODUCTION


def load_settings(**overrides: Any) -> Settings:
    """Read the environment, and `.env` in development, into `Settings`.

    overrides: fields that win over the environment.
    Raises ConfigError with one sentence for each variable that is missing or wrong.
    """
    in_production = os.environ.get("APP_ENV", "").strip().lower() == AppEnv.PRODUCTION
    try:
        return Settings(_env_file=None if in_production else ".env", **overrides)
    except ValidationError as error:
        raise ConfigError(" ".join(sentence(problem) for problem in error.errors())) from None


def sentence(problem: Mapping[str, Any]) -> str:
    """A pydantic error as a sentence that names the variable and never repeats its value."""
    variable = str(problem["loc"][0]).upper() if problem["loc"] else "The configuration"
    if problem["type"] == "missing":
        return f"{variable} is not set."
    return f"{variable} is wrong: {problem['msg'].removeprefix('Value error, ')}."
