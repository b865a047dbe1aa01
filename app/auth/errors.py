"""What can go wrong while proving who one is."""

from http import HTTPStatus

from app.core.errors import AppError


class AccountExists(AppError):
    """The number's owner has verified it."""

    status, code = HTTPStatus.CONFLICT, "account_exists"
    detail = "An account with this number exists. Log in instead."


class AccountNotFound(AppError):
    """The code was right, but nobody signed up with the number."""

    status, code = HTTPStatus.NOT_FOUND, "account_not_found"
    detail = "The code was right, but there is no account with this number. Sign up first."


class OtpInvalid(AppError):
    """Wrong, expired, used or meant for something else: which of them is not told."""

    status, code = HTTPStatus.UNAUTHORIZED, "otp_invalid"
    detail = "The code is wrong or has expired. Ask for a new one."

    def __init__(self) -> None:
        super().__init__(headers={"WWW-Authenticate": 'OTP realm="api"'})
