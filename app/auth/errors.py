"""The errors of signing up and logging in."""

from collections.abc import Mapping
from http import HTTPStatus

from app.core.errors import AppError, RateLimited


class AccountExists(AppError):
    """The number is already verified."""

    status, code = HTTPStatus.CONFLICT, "account_exists"
    detail = "An account with this number exists. Log in instead."


class AccountNotFound(AppError):
    """The code was right, but nobody signed up with the number."""

    status, code = HTTPStatus.NOT_FOUND, "account_not_found"
    detail = "The code was right, but there is no account with this number. Sign up first."


class OtpInvalid(AppError):
    """A code that is wrong, expired, used, guessed at too often or sent for something else; no answer says which."""

    status, code = HTTPStatus.UNAUTHORIZED, "otp_invalid"
    detail = "The code is wrong or has expired. Ask for a new one."
    headers: Mapping[str, str] = {"WWW-Authenticate": 'OTP realm="api"'}


class InvalidCredentials(AppError):
    """There is no such account, it has no password, or the password is wrong; the answer does not say which."""

    status, code = HTTPStatus.UNAUTHORIZED, "invalid_credentials"
    detail = "The number or the password is wrong."
    headers: Mapping[str, str] = {"WWW-Authenticate": 'Password realm="api"'}


class WrongPassword(AppError):
    """A logged-in user gave a wrong current password."""

    status, code, detail = HTTPStatus.FORBIDDEN, "wrong_password", "The current password is wrong."


class TooManyApiKeys(AppError):
    """The user already has the most API keys that are allowed."""

    status, code = HTTPStatus.CONFLICT, "too_many_api_keys"
    detail = "You already have ten API keys. Delete one that you no longer need."


class OtpCooldown(RateLimited):
    """Codes were requested too quickly, or too many in an hour."""

    code, detail = "otp_cooldown", "Codes were requested too often. `Retry-After` says when to request another one."


class OtpLocked(RateLimited):
    """Too many wrong codes for one number."""

    code = "otp_locked"
    detail = "Too many wrong codes for this number. `Retry-After` says when codes work again."
