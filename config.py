"""Every setting, read and validated in one place.

Only the app factory and the entry points call `load_settings()`; all other code is handed the `Settings` it returns. If
a value is wrong, the process does not start, and prints one clear sentence for each variable.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from production_rules import (
    DEVELOPMENT_JWT_SECRET,
    check_database_address,
    check_header_value,
    check_redis_url,
    refusal,
    with_host,
)

Value = TypeVar("Value")

REFUSED = "refused"
APP_ENV_MISSING = "APP_ENV is not set: choose `production`, or `development` on a machine that nobody else can reach."
WHEN_UNSET = {  # (in production, in development): a team's tests all come from one address
    "rate_limit_per_minute": (120, 6_000),
    "codes_per_hour": (2_000, 0),
    "wrong_codes_per_hour": (2_000, 0),  # more than one address can try in an hour
}
MODEL_NAME = "[A-Za-z0-9._-]{1,100}"
SPARE_THREADS = 16  # left in a web process that has as many streams open as allowed
UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class ConfigError(SystemExit):
    """A setting is missing or wrong. The process ends with the message, which names the setting in one sentence."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.code = f"Configuration: {problem}"


@dataclass(frozen=True)
class ModelChoice:
    """A model that a chatroom may be given, and the lowest tier that may use it."""

    name: str
    tier: str


@dataclass(frozen=True)
class ModelPrice:
    """The price of a million tokens of a model, from a day on. Thinking is billed as output."""

    model: str
    since: date
    prompt: Decimal
    output: Decimal


def parse_prices(value: Any) -> Any:
    """Parse `model:2026-01-01:0.30:2.50, …` into ModelPrices. Raises ValueError."""
    if not isinstance(value, str):
        return value
    prices = []
    for part in split_on_commas(value):
        try:
            model, since, prompt, output = part.split(":")
            price = ModelPrice(model, date.fromisoformat(since), Decimal(prompt), Decimal(output))
        except (ValueError, ArithmeticError):
            raise ValueError("each price must look like `gemini-3.5-flash:2026-01-01:0.30:2.50`") from None
        if not (price.prompt.is_finite() and price.output.is_finite() and min(price.prompt, price.output) >= 0):
            raise ValueError("each price must be a number, 0 or more")
        prices.append(price)
    return tuple(prices)


def parse_models(value: Any) -> Any:
    """Parse `name:tier, …` into ModelChoices. Anything else is returned as it is, to be refused later."""
    if not isinstance(value, str):
        return value
    return tuple(ModelChoice(*map(str.strip, part.rpartition(":")[::2])) for part in split_on_commas(value))


def parse_duration(value: Any) -> Any:
    """Parse `1d`, `12h`, `30m`, `45s` or plain seconds into a timedelta. Anything else is returned, to be refused."""
    match = re.fullmatch(r"(\d{1,9})\s*([smhd]?)", str(value).lower())
    return timedelta(seconds=int(match[1]) * UNIT_SECONDS[match[2]]) if match else value


def split_on_commas(value: Any) -> Any:
    """Split `a, b` into ["a", "b"]."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def calling_codes_and_regions(value: Any) -> Any:
    """Split `+49, at` into ["49", "AT"]: calling codes without their plus, regions as ISO 3166-1 writes them."""
    return [part.lstrip("+").upper() for part in split_on_commas(value)]


Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), Field(ge=timedelta(seconds=1), le=timedelta(days=3_660))
]
Limit = Annotated[int, Field(ge=0, le=1_000_000)]
Address = Annotated[str, AfterValidator(with_host)]
Origin = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.-]+(:\d{1,5})?$")]
Key = Annotated[str, AfterValidator(check_header_value)]
CountryCode = Annotated[str, Field(pattern=r"^([1-9]\d{0,2}|[A-Z]{2})$")]
OriginList = Annotated[list[Origin], NoDecode, BeforeValidator(split_on_commas)]
GeminiModels = Annotated[tuple[ModelChoice, ...], NoDecode, BeforeValidator(parse_models)]
ModelPrices = Annotated[tuple[ModelPrice, ...], NoDecode, BeforeValidator(parse_prices)]
PriceList = Annotated[list[str], NoDecode, BeforeValidator(split_on_commas)]
CountryList = Annotated[list[CountryCode], NoDecode, BeforeValidator(calling_codes_and_regions)]


class Settings(BaseSettings):
    """All settings: the variable is the field's name in capitals."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    # Where it runs, and the exceptions to what production refuses. They come first: other settings are judged by them
    app_env: Literal["development", "production"]
    otp_response_in_production: bool = Field(False, description="Show codes in responses, for a demonstration")
    otp_log_in_production: bool = Field(False, description="Show codes in the log")
    stripe_test_key_in_production: bool = Field(False, description="Use Stripe's test mode, where Pro costs nothing")
    plain_http_in_production: bool = Field(False, description="Gemini, Stripe and Twilio by http:// or on this machine")
    plain_database_in_production: bool = Field(False, description="PostgreSQL without TLS, on a private network")

    # The process
    flask_debug: bool = False
    port: int = Field(5000, ge=1, le=65_535)
    web_threads: int = Field(256, ge=1, le=10_000, description="Threads of one web process")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    trusted_proxies: int = Field(0, ge=0, le=10, description="How many proxies in front add to X-Forwarded-For")
    log_format: Literal["", "json", "readable"] = Field("", description="Empty: json in production, else readable")
    otel_exporter_otlp_endpoint: Address = Field(
        "", pattern="^(https?://.+)?$", description="Empty: no spans are exported"
    )
    metrics_token: Key = Field("", description="Bearer token of /metrics, which is 404 in production without it")

    # Where data lives
    database_url: str
    database_pool_size: int = Field(20, ge=1, le=200, description="Connections of one process")
    redis_url: Annotated[Address, AfterValidator(check_redis_url)] = Field(pattern="^rediss?://")
    redis_pool_size: int = Field(50, ge=2, le=1_000, description="Connections of one process for each purpose")

    # Accounts
    jwt_secret: str = DEVELOPMENT_JWT_SECRET
    jwt_secret_previous: str = Field("", description="Tokens signed with it are accepted too, during a rotation")
    hash_secret: str = Field("", description="Keys the hashes of numbers and codes; JWT_SECRET when empty")
    jwt_expires_in: Duration = timedelta(days=1)
    refresh_expires_in: Duration = timedelta(days=30)
    otp_delivery: Literal["response", "log", "twilio"] = "response"
    allowed_country_codes: CountryList = []
    twilio_account_sid: Key = ""
    twilio_auth_token: Key = ""
    twilio_from: str = Field("", description="One of the account's numbers, or a messaging service (MG…)")
    twilio_api_base: Address = Field("https://api.twilio.com", pattern="^https?://")

    # Gemini
    gemini_api_key: Key = ""
    gemini_sdk: Literal["google-generativeai", "google-genai"] = "google-generativeai"
    gemini_model: str = Field("gemini-3.5-flash", pattern=f"^{MODEL_NAME}$")
    gemini_models: GeminiModels = Field((), description="name:tier, separated by commas")
    model_prices: ModelPrices = Field((), description="Per million tokens: model:day:prompt:output, …")
    gemini_title_model: str = Field("", pattern=r"^[A-Za-z0-9._-]{0,100}$", description="Empty: GEMINI_MODEL")
    auto_title: bool = Field(True, description="Whether Gemini names chatrooms; otherwise their first words do")
    gemini_api_endpoint: Address = Field("https://generativelanguage.googleapis.com", pattern="^https?://")
    gemini_timeout: float = Field(120, ge=0.1, le=600, description="Seconds for one attempt as a whole")
    gemini_idle_timeout: float = Field(60, ge=0.1, le=600, description="Seconds without a piece of a streamed reply")
    gemini_max_output_tokens: int = Field(8_192, ge=0, le=1_000_000, description="With thinking; 0: the model's own")
    gemini_system_instruction: str = (
        "You are a helpful assistant in a chat. Answer in the language of the question, clearly and to the point."
    )
    # No model reads more than two million tokens, of about four characters each
    gemini_history_max_chars: int = Field(
        48_000, ge=8_000, le=8_000_000, description="Characters of a conversation that are sent, the prompt included"
    )
    gemini_history_max_tokens: int = Field(
        12_000, ge=0, le=2_000_000, description="The same in tokens, where they are known; 0: only characters count"
    )

    # Replies. Nobody waits longer than a day for one
    reply_max_attempts: int = Field(6, ge=1, le=100, description="Failed attempts after which a reply fails")
    reply_max_seconds: float = Field(300, ge=0.1, le=86_400, description="Seconds in which its attempts may begin")
    generations_per_user: int = Field(8, ge=1, le=1_000, description="Replies of one user generated at a time")
    reply_lease_seconds: float = Field(12, ge=1, le=300, description="How long a dead worker keeps a reply")
    reply_requeue_after_seconds: float = Field(8, ge=1, le=300, description="When a queued reply's task counts as lost")
    reply_sweep_seconds: float = Field(4, ge=0.5, le=60, description="How often the sweeper looks")

    # Stripe
    stripe_secret_key: Key = ""
    stripe_pro_price_id: PriceList = Field([], description="The first is sold; a subscription for any of them is Pro")
    stripe_webhook_secret: Key = ""
    stripe_api_base: Address = Field("https://api.stripe.com", pattern="^https?://")
    stripe_timeout: float = Field(10, ge=0.1, le=12, description="Seconds for all of a request's calls together")
    stripe_grace_days: float = Field(3, ge=0, le=60, description="How long an unpaid subscription stays Pro")
    billing_sync_seconds: float = Field(
        900, ge=1, le=3_600, description="How often our copies are compared with Stripe's"
    )

    # Limits
    basic_daily_prompts: int = Field(5, ge=0, le=100_000)
    rate_limit_per_minute: Limit | None = Field(None, description="Per user or IP; 0 lifts every such limit")
    codes_per_hour: Limit | None = Field(None, description="Codes sent by the whole service; 0 for no such limit")
    wrong_codes_per_hour: Limit | None = Field(None, description="Wrong codes of all numbers; 0 for no such limit")
    streams_per_user: int = Field(10, ge=1, le=1_000, description="Replies that one user may follow at once")
    streams_per_process: int = Field(  # a connection pool has a slot for each from the start
        200, ge=1, le=10_000, description="Replies that are followed in one web process at once, if WEB_THREADS allows"
    )
    export_max_seconds: int = Field(300, ge=1, le=3_600, description="How long one export of a user's data may take")
    chatroom_list_ttl_seconds: int = Field(300, ge=1, le=86_400)

    # Clients
    frontend_url: Address = Field("http://localhost:3000", pattern="^https?://")
    cors_origins: OriginList = []

    @model_validator(mode="before")
    @classmethod
    def without_blanks(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Strip every value: dashboards leave spaces and line ends. An all-blank setting gets its default."""
        stripped = {name: value.strip() if isinstance(value, str) else value for name, value in given.items()}
        return {name: value for name, value in stripped.items() if value or not given[name]}

    @field_validator("database_url")
    @classmethod
    def name_the_driver(cls, url: str) -> str:
        """Name psycopg2 explicitly: SQLAlchemy 2.1 reads `postgresql://` as psycopg 3, and refuses `postgres://`."""
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg2"}:
            raise ValueError("must start with postgres:// or postgresql://")
        address = f"postgresql+psycopg2://{rest}"
        check_database_address(address)
        return address

    @field_validator("rate_limit_per_minute", "codes_per_hour", "wrong_codes_per_hour")
    @classmethod
    def choose_by_environment(cls, value: int | None, info: ValidationInfo) -> int:
        """Choose the default of an unset limit, which is strict only in production."""
        return WHEN_UNSET[str(info.field_name)][not in_production(info)] if value is None else value

    @field_validator("twilio_account_sid", "twilio_auth_token", "twilio_from")
    @classmethod
    def with_credentials(cls, value: str, info: ValidationInfo) -> str:
        needed = info.data.get("otp_delivery") == "twilio"
        variable = str(info.field_name).upper()
        return must(value, bool(value) or not needed, f"{variable} must be set when OTP_DELIVERY is `twilio`.")

    @field_validator("gemini_models")
    @classmethod
    def with_the_default(cls, value: tuple[ModelChoice, ...], info: ValidationInfo) -> tuple[ModelChoice, ...]:
        """Check the models. If unset, GEMINI_MODEL is the only one, for everybody."""
        if "gemini_model" not in info.data:  # it is wrong, which is reported already
            return value
        default = ModelChoice(info.data["gemini_model"], "basic")
        models = value or (default,)
        well_formed = all(re.fullmatch(MODEL_NAME, one.name) and one.tier in {"basic", "pro"} for one in models)
        must(value, well_formed, "GEMINI_MODELS must look like `name:basic,name:pro`.")
        names = [one.name for one in models]
        must(value, len(set(names)) == len(names), "GEMINI_MODELS names a model twice.")
        must(value, default in models, "GEMINI_MODELS must include GEMINI_MODEL for `basic`.")
        return models

    @field_validator("*")
    @classmethod
    def fit_for_production(cls, value: Value, info: ValidationInfo) -> Value:
        """Apply what production_rules.py refuses in production."""
        refused_because = refusal(str(info.field_name), value, info.data) if in_production(info) else None
        return must(value, refused_because is None, str(refused_because))

    @property
    def is_production(self) -> bool:
        return self.app_env == "production"

    @property
    def streams_allowed(self) -> int:
        """How many replies one web process may follow at once, so that threads stay free for other requests."""
        return min(self.streams_per_process, max(self.web_threads // 2, self.web_threads - SPARE_THREADS))

    @property
    def logs_json(self) -> bool:
        return self.log_format == "json" or (not self.log_format and self.is_production)


def in_production(info: ValidationInfo) -> bool:
    return info.data.get("app_env") == "production"


def must(value: Value, condition: bool, sentence: str) -> Value:
    """Return the value if the condition holds. Otherwise refuse to start, with a sentence that names the variable."""
    if not condition:
        raise PydanticCustomError(REFUSED, "{sentence}", {"sentence": sentence})
    return value


def env_file() -> str:
    """Return the file that development reads variables from. A missing file, or /dev/null, sets none."""
    return os.environ.get("ENV_FILE") or ".env"


def load_settings(**overrides: Any) -> Settings:
    """Read the environment, and in development ENV_FILE (`.env` if it is not set), into `Settings`.

    overrides: fields that take precedence over the environment.
    Raises ConfigError with one sentence for each variable that is missing or wrong. If APP_ENV is missing, the error
    names only that one, because the others are judged by it.
    """
    is_production = os.environ.get("APP_ENV", "").strip() == "production"
    try:
        settings = Settings(_env_file=None if is_production else env_file(), **overrides)
    except ValidationError as error:
        problems = error.errors()
        if any(problem["loc"] == ("app_env",) and problem["type"] == "missing" for problem in problems):
            raise ConfigError(APP_ENV_MISSING) from None
        raise ConfigError(" ".join(describe_problem(problem) for problem in problems)) from None
    if settings.is_production and not is_production and "app_env" not in overrides:
        raise ConfigError("APP_ENV is `production` in a file that only development reads: set it in the environment.")
    return settings


def describe_problem(problem: Mapping[str, Any]) -> str:
    """Turn a pydantic error into a sentence that names the variable and never repeats its value."""
    variable = str(problem["loc"][0]).upper() if problem["loc"] else "The configuration"
    if problem["type"] == REFUSED:
        return str(problem["msg"])
    if problem["type"] == "missing":
        return f"{variable} is not set."
    return f"{variable} is wrong: {problem['msg'].removeprefix('Value error, ')}."
