"""Bearer tokens: only this module makes and reads them. The auth feature manages their sessions, and the API keys.

Routes see an API key as a token. What never changes about a key is presented as a token's claims, with `scopes` added
and with the key's id in place of the session's.
"""

import enum
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from flask import Flask, current_app, g, request
from flask_jwt_extended import JWTManager, create_access_token, create_refresh_token, decode_token
from flask_jwt_extended.exceptions import JWTExtendedException
from jwt.exceptions import ExpiredSignatureError, PyJWTError

from app.core.admission import REQUESTS, Limit, SessionValidator, admit, limit_address
from app.core.clock import utc_now
from app.core.crypto import derive_key
from app.core.errors import AppError

if TYPE_CHECKING:
    from config import Settings

# Keys in app.extensions.
CLAIMS_CACHE = "claims_cache"
SESSION_VALIDATOR = "is_session_active"
KEY_VALIDATOR = "is_api_key_active"
API_KEY_PREFIX = "gbk_"
MAX_CACHED_TOKENS = 10_000  # tokens and keys whose claims a process remembers; about a kilobyte each
CLOCK_SKEW_SECONDS = 30  # between two web machines, at most
# `jti` is taken by flask-jwt-extended; renaming this claim would invalidate live refresh tokens.
REFRESH_JTI_CLAIM = "rid"


class TokenError(AppError):
    """A 401 with the challenge of RFC 6750, section 3."""

    status = HTTPStatus.UNAUTHORIZED
    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer realm="api", error="invalid_token"'}


class TokenMissing(TokenError):
    """The request carries no bearer token."""

    code = "token_missing"
    detail = "Send a token: `Authorization: Bearer <token>`; `/auth/refresh` takes the refresh token."
    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer realm="api"'}


class TokenInvalid(TokenError):
    """The token is not ours, or not of the kind that the route takes."""

    code, detail = "token_invalid", "The token is not one of ours, or is of the wrong kind for this route."


class UnknownKey(TokenInvalid):
    """The token looks like an API key, but is none of ours."""


class TokenExpired(TokenError):
    """The token is past its `exp`."""

    code, detail = "token_expired", "The token has expired. Refresh it, or log in again."


class TokenRevoked(TokenError):
    """The session has ended, or the user is gone."""

    code, detail = "token_revoked", "The token has been revoked. Log in again."


class InsufficientScope(AppError):
    """The API key is not valid for this route. The challenge follows RFC 6750, section 3."""

    status, code = HTTPStatus.FORBIDDEN, "insufficient_scope"
    detail = "This API key may not call this route."

    def __init__(self, needed: "Scope | None") -> None:
        scope = f', scope="{needed}"' if needed else ""
        super().__init__(headers={"WWW-Authenticate": f'Bearer realm="api", error="insufficient_scope"{scope}'})


class Scope(enum.StrEnum):
    """What an API key may do; a token may do everything."""

    CHAT_READ = "chat:read"
    CHAT_WRITE = "chat:write"


def register_auth(
    app: Flask,
    settings: "Settings",
    *,
    is_session_active: SessionValidator,
    find_key: Callable[[str], dict[str, Any] | None],
    is_key_active: SessionValidator,
) -> None:
    """Set up flask-jwt-extended, and the functions that look up and check sessions and API keys.

    JWT_SECRET signs tokens; those signed with JWT_SECRET_PREVIOUS are accepted too. is_session_active, is_key_active:
    called when Redis does not know the session or the API key, with its id, its user's id and the time. find_key:
    returns an API key's claims, or None. All three hold no database connection when they return.
    """
    app.extensions[SESSION_VALIDATOR] = is_session_active
    app.extensions[KEY_VALIDATOR] = is_key_active
    app.extensions[CLAIMS_CACHE] = lru_cache(maxsize=MAX_CACHED_TOKENS)(partial(claims_of, find_key=find_key))
    app.config.update(
        JWT_SECRET_KEY=settings.jwt_secret,
        JWT_ACCESS_TOKEN_EXPIRES=settings.jwt_expires_in,
        JWT_REFRESH_TOKEN_EXPIRES=settings.refresh_expires_in,
        JWT_DECODE_LEEWAY=CLOCK_SKEW_SECONDS,  # for `iat` and `nbf`; `read_token` checks `exp` itself
    )
    current, previous = settings.jwt_secret, settings.jwt_secret_previous
    current_id, secrets = key_id(current), {key_id(previous): previous} if previous else {}
    jwt = JWTManager(app)
    jwt.additional_headers_loader(lambda _identity: {"kid": current_id})
    jwt.decode_key_loader(lambda header, _claims: secrets.get(header.get("kid"), current))


def require_token(*limits: Limit, refresh: bool, scope: Scope | None) -> None:
    """Require a valid access token (or refresh token) of an active session, and count the request.

    scope: API keys with this scope are accepted too; None: no API key is.
    A request of an active session counts against its user, any other against its address, so that the holder of a
    revoked token cannot use up the user's limit. Raises TokenError, InsufficientScope, RateLimited.
    """
    try:
        claims = read_token(refresh=refresh)
        if not admit(id_claim(claims, "sid"), id_claim(claims, "sub"), utc_now(), validator_of(claims)):
            raise TokenRevoked
    except TokenError as error:
        if not isinstance(error, UnknownKey):  # `claims_of` has counted it already
            limit_address(REQUESTS)
        raise
    if "scopes" in claims and scope not in claims["scopes"]:
        raise InsufficientScope(scope)
    g.token_claims = claims
    limit_address(*limits)


def validator_of(claims: Mapping[str, Any]) -> SessionValidator:
    """Return the function that asks PostgreSQL whether the token's session, or the API key, is active."""
    return cast(SessionValidator, current_app.extensions[KEY_VALIDATOR if "scopes" in claims else SESSION_VALIDATOR])


def claims_of(token: str, find_key: Callable[[str], dict[str, Any] | None]) -> dict[str, Any]:
    """Return the claims of a token or an API key that is ours. Raises TokenInvalid, TokenExpired, RateLimited.

    The address is counted before a key is looked up, so that a flood of invented keys causes few queries.
    """
    if token.startswith(API_KEY_PREFIX):
        limit_address(REQUESTS)
        claims = find_key(token)
        if claims is None:
            raise UnknownKey
        return claims
    try:
        return cast("dict[str, Any]", decode_token(token))
    except ExpiredSignatureError:
        raise TokenExpired from None
    except (JWTExtendedException, PyJWTError):
        raise TokenInvalid from None


def read_token(*, refresh: bool) -> dict[str, Any]:
    """Return the claims of the request's token or API key.

    A process verifies each signature once and looks up each key once: what was ours stays ours. Only the expiry is
    checked again. Raises TokenMissing, TokenInvalid, TokenExpired, RateLimited.
    """
    token = bearer_token()
    is_key = token.startswith(API_KEY_PREFIX)
    claims: dict[str, Any] = current_app.extensions[CLAIMS_CACHE](token)
    if not is_key and ("scopes" in claims or claims["type"] != ("refresh" if refresh else "access")):
        raise TokenInvalid
    if float(claims.get("exp", 0)) <= utc_now().timestamp():  # PyJWT accepts a number as text
        raise TokenExpired("The API key has expired. Make a new one." if is_key else None)
    return claims


def bearer_token() -> str:
    """Return the token in the request's `Authorization` header. Raises TokenMissing."""
    scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
    token = rest.strip()  # after one space or more: RFC 9110, 11.4
    if scheme.lower() != "bearer" or not token:  # case-insensitive: RFC 9110, 11.1
        raise TokenMissing
    return token


def current_user_id() -> UUID:
    """Return the user of the request's token."""
    return UUID(g.token_claims["sub"])


def current_session_id() -> UUID:
    """Return the session of the request's token, or the API key's id."""
    return UUID(g.token_claims["sid"])


def current_refresh_jti() -> UUID:
    """Return the id of the request's refresh token. Raises TokenInvalid."""
    return id_claim(g.token_claims, REFRESH_JTI_CLAIM)


def encode_tokens(user_id: UUID, session_id: UUID, jti: UUID) -> tuple[str, str]:
    """Return a signed access token and a signed refresh token. jti: the id of the refresh token's row."""
    claims = {"sid": str(session_id)}
    access_token = create_access_token(str(user_id), additional_claims=claims)
    return access_token, create_refresh_token(str(user_id), additional_claims=claims | {REFRESH_JTI_CLAIM: str(jti)})


def current_session_check() -> Callable[[], bool]:
    """Return a function that checks whether this request's session is still active, even after the request."""
    is_active, session_id, user_id = validator_of(g.token_claims), current_session_id(), current_user_id()
    return lambda: is_active(session_id, user_id, utc_now())


def id_claim(claims: Mapping[str, Any], name: str) -> UUID:
    """Return the id in a claim. Raises TokenInvalid if there is none."""
    try:
        return UUID(claims[name])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise TokenInvalid from None


def key_id(secret: str) -> str:
    """Return the `kid` that names a signing secret in a token's header (RFC 7515, 4.1.4)."""
    return derive_key(secret, "token-key-id").hex()[:16]
