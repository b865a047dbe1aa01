"""Settings that stop the start: addresses that our clients cannot use, and a table of what production refuses.

`config.py` calls `refusal` for each setting once its value is known. If somebody may want a refused value all the same,
another setting allows it, and the sentence names it. No sentence repeats a part of an address: it may be a password's.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import psycopg2
from psycopg2.extensions import make_dsn
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

DEVELOPMENT_JWT_SECRET = "development-only-secret-change-it-before-production"  # noqa: S105 - refused in production
MIN_SECRET_BYTES = 32  # RFC 7518, 3.2: a key for HS256 is at least as long as the hash
EXAMPLE_MARKS = ("change-me", "changeme", "change-it", "change_me", "example")
SANDBOX_MARK = "sandbox"  # in every key that the sandbox's stand-ins accept
STRIPE_TEST_KEYS = ("sk_test_", "rk_test_")  # https://docs.stripe.com/keys#test-live-modes
PLAIN_MODES = {"disable", "allow", "prefer"}
ENCRYPTED_MODES = {"require", "verify-ca", "verify-full"}  # https://www.postgresql.org/docs/current/libpq-ssl.html

# redis-py and kombu read these alike, except %25: redis-py decodes values twice.
REDIS_TLS_OPTION = (
    "ssl_(ca_certs|ca_path|ca_data|certfile|keyfile|password)=([^%]|%(?!25)[0-9A-Fa-f]{2})+"
    "|ssl_cert_reqs=(none|optional|required)|ssl_check_hostname=(true|false)"
)

SECRETS = ("jwt_secret", "jwt_secret_previous", "hash_secret")  # the last two may be left out
API_KEYS = ("gemini_api_key", "stripe_secret_key", "stripe_webhook_secret")
API_ADDRESSES = ("gemini_api_endpoint", "stripe_api_base", "twilio_api_base")


@dataclass(frozen=True)
class Rule:
    """A rule: production refuses these values of the settings, unless another setting, declared earlier, is true."""

    settings: tuple[str, ...]
    refuses: Callable[[Any], object]
    sentence: str
    unless: str | None = None


def with_host(address: str) -> str:
    """Return the address, which may be empty. Raises ValueError if it has no host, or a port that cannot exist."""
    try:
        parts = urlsplit(address)
        is_complete = re.fullmatch(r"[\w.:-]+", parts.hostname or "") and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:
        is_complete = None
    if address and not is_complete:
        raise ValueError("must look like scheme://host or scheme://host:port")
    return address


def check_header_value(key: str) -> str:
    """Return the key. Raises ValueError if no HTTP request can carry it, as when a line end was copied with it."""
    if not re.fullmatch("[!-~]*", key):
        raise ValueError("must consist of visible ASCII characters, without spaces")
    return key


def check_redis_url(redis_url: str) -> str:
    """Return the address. Raises ValueError if redis-py and kombu would read it differently: tasks would go astray.

    redis-py accepts any option, even a database, a user and a password; kombu fails on all but those of TLS.
    """
    parts = urlsplit(redis_url)
    if not re.fullmatch("/?[0-9]{0,5}", parts.path) or parts.fragment:
        raise ValueError("may have a database number after its host, as in redis://host/3, but no other path")
    options = parts.query.split("&") if parts.query else []
    if (options and parts.scheme != "rediss") or not all(re.fullmatch(REDIS_TLS_OPTION, option) for option in options):
        raise ValueError("may have only TLS options (ssl_…), only with rediss://, and without %25 in them")
    return redis_url


def check_database_address(address: str) -> None:
    """Raise ValueError for an address that psycopg2 would always refuse, as far as that shows without connecting."""
    try:
        url = make_url(address)
        options = url.get_dialect()().create_connect_args(url)[1]
        ports = [int(port) for port in str(options.get("port", "")).split(",") if port]
    except (ArgumentError, ValueError):
        raise ValueError("cannot be parsed as an address") from None
    query = address.partition("?")[2]
    is_cut = "@" in f"{url.host}{url.database}" or not all("=" in part for part in query.split("&") if part)
    if is_cut or re.search(r"\s", url.host or ""):
        raise ValueError(
            "must have its password encoded, with %40 for @, %2F for / and %3F for ?, and no space in its host"
        )
    if not all(port in range(1, 65_536) for port in ports):
        raise ValueError("must have a port from 1 to 65535")
    try:
        make_dsn(**options)
    except (psycopg2.ProgrammingError, TypeError):
        raise ValueError("has an option that PostgreSQL's libpq does not know, such as Prisma's `schema`") from None
    if options.get("sslmode", "prefer") not in PLAIN_MODES | ENCRYPTED_MODES:
        raise ValueError("must have one of libpq's modes as its sslmode, such as `require` or `verify-full`")


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback or ip_address(host).is_unspecified
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def crosses_network_unencrypted(database_url: str) -> bool:
    """Return whether connections to PostgreSQL cross a network without demanding TLS.

    What the URL leaves open, libpq takes from PGHOST and PGSSLMODE. A host that begins with / or @ is a unix socket.
    """
    url = make_url(database_url)
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    hosts = query.get("hostaddr") or query.get("host") or url.host or os.environ.get("PGHOST", "")
    if (query.get("sslmode") or os.environ.get("PGSSLMODE")) in ENCRYPTED_MODES:
        return False
    return any(host and host[0] not in "/@" and not is_loopback(host) for host in hosts.split(","))


RULES = (
    Rule(("flask_debug",), bool, "FLASK_DEBUG must be off in production"),
    Rule(
        ("database_url",),
        crosses_network_unencrypted,
        "DATABASE_URL points to another machine without requiring TLS: add sslmode=require or, better, verify-full",
        unless="plain_database_in_production",
    ),
    Rule(
        ("redis_url",),
        re.compile("ssl_cert_reqs=(none|optional)|ssl_check_hostname=false").search,
        "REDIS_URL must check the certificate in production: remove ssl_cert_reqs and ssl_check_hostname from it",
    ),
    Rule(("jwt_secret",), lambda key: key in {"", DEVELOPMENT_JWT_SECRET}, "JWT_SECRET must be set in production"),
    Rule(
        SECRETS,
        lambda secret: any(mark in secret.lower() for mark in EXAMPLE_MARKS),
        "{} is an example: generate your own for production",
    ),
    Rule(
        SECRETS,
        lambda secret: 0 < len(secret.encode()) < MIN_SECRET_BYTES,
        f"{{}} is too short for production: it needs at least {MIN_SECRET_BYTES} bytes",
    ),
    Rule(
        ("otp_delivery",),
        lambda delivery: delivery == "response",
        "OTP_DELIVERY is `response`, which shows anybody's code to whoever requests it: use `twilio` in production",
        unless="otp_response_in_production",
    ),
    Rule(
        ("otp_delivery",),
        lambda delivery: delivery == "log",
        "OTP_DELIVERY is `log`, so whoever reads the log can log in as any user: use `twilio` in production",
        unless="otp_log_in_production",
    ),
    Rule(("stripe_webhook_secret",), lambda secret: not secret, "STRIPE_WEBHOOK_SECRET must be set in production"),
    Rule(API_KEYS, lambda key: SANDBOX_MARK in key.lower(), "{} is the sandbox's, which production must not use"),
    Rule(
        ("stripe_secret_key",),
        lambda key: key.startswith(STRIPE_TEST_KEYS),
        "STRIPE_SECRET_KEY is a test key, with which Pro costs nothing: use the live key in production",
        unless="stripe_test_key_in_production",
    ),
    Rule(
        API_ADDRESSES,
        lambda address: is_loopback(urlsplit(address).hostname or ""),
        "{} points to a stand-in on this machine: production needs the real service",
        unless="plain_http_in_production",
    ),
    Rule(
        API_ADDRESSES,
        lambda address: address and not address.startswith("https://"),
        "{} lets keys and conversations travel unencrypted: production needs https://",
        unless="plain_http_in_production",
    ),
)


def refusal(setting: str, value: Any, known_settings: Mapping[str, Any]) -> str | None:
    """Return the sentence with which production refuses a value, or None if it accepts it.

    known_settings: the settings that are known already.
    """
    for rule in RULES:
        if setting in rule.settings and not (rule.unless and known_settings.get(rule.unless)) and rule.refuses(value):
            return rule.sentence.format(setting.upper()) + (
                f"; to allow it anyway, set {rule.unless.upper()}=true." if rule.unless else "."
            )
    return None
