"""Bearer tokens: made and read here alone. Which session one belongs to is the auth feature's to know."""

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from http import HTTPStatus
from typing import Any, TypeVar, cast
from uuid import UUID

from flask import Flask, Response, current_app, request
from flask_jwt_extended import (
    JWTManager,
    create_access_token,
    create_refresh_token,
    get_jwt,
    get_jwt_identity,
    verify_jwt_in_request,
)
from flask_jwt_extended.exceptions import JWTExtendedException
from jwt.exceptions import PyJWTError

from app.core.clock import utc_now
from app.core.crypto import derive_key
from app.core.errors import AppError, handle_app_error
from app.core.limits import REQUESTS, limit_address, limit_user

View = TypeVar("View", bound=Callable[..., Any])
SessionCheck = Callable[[UUID, UUID, datetime], bool]

SESSION_CHECK = "is_session_active"


class TokenError(AppError):
    """A 401 with the challenge that RFC 6750 asks for."""

    status = HTTPStatus.UNAUTHORIZED
    challenge = 'Bearer realm="api", error="invalid_token"'

    def __init__(self) -> None:
        super().__init__(headers={"WWW-Authenticate": self.challenge})


class TokenMissing(TokenError):
    code, detail = "token_missing", "Send an access token: `Authorization: Bearer <token>`."
    challenge = 'Bearer realm="api"'


class TokenInvalid(TokenError):
    code, detail = "token_invalid", "The token is not one of ours, or not of the kind needed here."


class TokenExpired(TokenError):
    code, detail = "token_expired", "The token has expired. Refresh it, or log in again."


class TokenRevoked(TokenError):
    code, detail = "token_revoked", "The token no longer counts. Log in again."


def require_token(*, refresh: bool = False) -> Callable[[View], View]:
    """A view decorator: an access token (or a refresh token) that is valid, and a session that lives.

    A request whose session lives is counted by user, any other by address: who holds a token that has ended
    spends nothing of its user's.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            normalize_scheme()
            try:
                verify_jwt_in_request(refresh=refresh)
            except (JWTExtendedException, PyJWTError, TokenInvalid):
                limit_address(REQUESTS)
                raise
            limit_user(current_user_id())
            return view(*args, **kwargs)

        return cast(View, guarded)

    return decorate


def normalize_scheme() -> None:
    """`bearer` means `Bearer` (RFC 9110, 11.1); flask-jwt-extended knows one spelling."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        request.environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"


def current_user_id() -> UUID:
    """Whose token the request carries."""
    return UUID(get_jwt_identity())


def current_session_id() -> UUID:
    """The session that the request's token belongs to."""
    return UUID(get_jwt()["sid"])


def current_rotation_id() -> UUID:
    """Which of its session's refresh tokens the request carries. Raises TokenInvalid."""
    return claimed_id(get_jwt(), "rid")


def encode_access_token(user_id: UUID, session_id: UUID) -> str:
    return str(create_access_token(str(user_id), additional_claims={"sid": str(session_id)}))


def encode_refresh_token(user_id: UUID, session_id: UUID, rotation_id: UUID) -> str:
    """rotation_id: which of the session's refresh tokens this is."""
    claims = {"sid": str(session_id), "rid": str(rotation_id)}
    return str(create_refresh_token(str(user_id), additional_claims=claims))


def session_check() -> SessionCheck:
    """What the factory was given to decide whether a token still counts."""
    return cast(SessionCheck, current_app.extensions[SESSION_CHECK])


def is_revoked(_header: dict[str, Any], claims: dict[str, Any]) -> bool:
    """Whether the session of a token, asked for at each request, has ended. Raises TokenInvalid."""
    return not session_check()(claimed_id(claims, "sid"), claimed_id(claims, "sub"), utc_now())


def current_session_check() -> Callable[[], bool]:
    """Whether the session of this request's token still goes on: to be asked later, without the request."""
    is_session_active, session_id, user_id = session_check(), current_session_id(), current_user_id()
    return lambda: is_session_active(session_id, user_id, utc_now())


def claimed_id(claims: dict[str, Any], name: str) -> UUID:
    """The id that a token claims under `name`. Raises TokenInvalid when it claims none."""
    try:
        return UUID(claims[name])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise TokenInvalid from None


def key_id(secret: str) -> str:
    """What a token's header calls the secret that it is signed with (RFC 7515, 4.1.4)."""
    return derive_key(secret, "token-key-id").hex()[:16]


def refuse(error: type[TokenError]) -> Callable[..., Response]:
    return lambda *_: handle_app_error(error())


def register_auth(app: Flask, *, secret: str, previous_secret: str = "", is_session_active: SessionCheck) -> None:
    """Let flask-jwt-extended take the tokens of sessions that go on, and answer others with problem documents.

    secret: what tokens are signed with. previous_secret: also accepted. is_session_active: is asked with the ids of a
    session and its user, and now; holds no database connection when it returns.
    """
    app.extensions[SESSION_CHECK] = is_session_active
    app.config["JWT_SECRET_KEY"] = secret
    current_id = key_id(secret)
    secrets = {key_id(previous_secret): previous_secret} if previous_secret else {}
    jwt = JWTManager(app)
    jwt.additional_headers_loader(lambda _identity: {"kid": current_id})
    jwt.decode_key_loader(lambda header, _claims: secrets.get(header.get("kid"), secret))
    jwt.token_in_blocklist_loader(is_revoked)
    jwt.unauthorized_loader(refuse(TokenMissing))
    jwt.invalid_token_loader(refuse(TokenInvalid))
    jwt.token_verification_failed_loader(refuse(TokenInvalid))
    jwt.expired_token_loader(refuse(TokenExpired))
    jwt.revoked_token_loader(refuse(TokenRevoked))
    jwt.needs_fresh_token_loader(refuse(TokenInvalid))
    jwt.user_lookup_error_loader(refuse(TokenRevoked))
