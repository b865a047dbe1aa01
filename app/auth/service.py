"""Use cases of signing up and logging in."""

from dataclasses import dataclass
from datetime import datetime

from app.auth import otp as codes
from app.auth.errors import AccountExists, AccountNotFound, InvalidCredentials, OtpInvalid
from app.auth.models import Purpose
from app.auth.otp import deliver
from app.auth.passwords import password_matches
from app.auth.sessions import Client, Tokens, open_session
from app.auth.throttles import (
    CODES_BUDGET,
    WRONG_CODES_BUDGET,
    give_password_try_back,
    given_back_when_busy,
    take_password_try,
)
from app.billing.tier import tier_of
from app.core.transactions import transaction
from app.users import service as users
from app.users.numbers import mobile_key
from app.users.profile import Profile


@dataclass(frozen=True)
class SentCode:
    """What the asker of a code is told; `otp` only where the response is the delivery."""

    mobile: str
    expires_in: int
    resend_in: int
    otp: str | None


def sign_up(mobile: str, *, name: str | None, now: datetime) -> Profile:
    """Claim a number. Nothing counts until a code proves that the number is one's own.

    mobile: E.164. An earlier claim that was never verified is replaced.
    Raises AccountExists when the number's owner has verified it.
    """
    with transaction():
        user = users.replace_unverified(mobile, name=name, now=now)
        if user is None:
            raise AccountExists
        return Profile.of(user, tier_of(user.id, now))


def send_code(mobile: str, purpose: Purpose, *, now: datetime) -> SentCode:
    """Make a code and bring it on its way, the same for known and unknown numbers. mobile: E.164.

    Raises OtpLocked, OtpCooldown, ServiceUnavailable.
    """
    with CODES_BUDGET.spend(), transaction() as current:
        row, code = codes.issue_code(mobile, purpose, now)
        shown = deliver(current, row, mobile, code, now)
    return SentCode(
        mobile,
        expires_in=int(codes.LIFETIME.total_seconds()),
        resend_in=int(codes.COOLDOWN.total_seconds()),
        otp=shown,
    )


def verify_login_code(mobile: str, code: str, client: Client, *, now: datetime) -> Tokens:
    """Trade a code for tokens; the first one verifies the number.

    Raises OtpInvalid, OtpLocked, ServiceUnavailable, AccountNotFound (the code was right and is used up).
    """
    with WRONG_CODES_BUDGET.spend():
        with transaction():
            is_right = codes.use_code(mobile, Purpose.LOGIN, code, now)
            user = users.lock_user_by_mobile(mobile)
            if is_right and user is not None:
                user.verified_at = user.verified_at or now
                return open_session(user, tier_of(user.id, now), client, now)
        raise AccountNotFound if is_right else OtpInvalid


def log_in(mobile: str, password: str, client: Client, *, now: datetime) -> Tokens:
    """Trade a password for tokens, in the same time for every kind of failure.

    The guess is counted first and given back when it was right or could not be compared; no transaction is open
    while it is hashed. Raises InvalidCredentials, RateLimited, ServiceUnavailable.
    """
    key = mobile_key(mobile)
    with transaction():
        counted_since = take_password_try(key, now)
        user = users.find_user_by_mobile(mobile)
    known_hash = user.password_hash if user is not None else None
    with given_back_when_busy(key, counted_since):
        if not password_matches(known_hash, password):
            raise InvalidCredentials
    with transaction():
        give_password_try_back(key, counted_since)
        user = users.lock_user_by_mobile(mobile)
        if user is None or user.password_hash != known_hash:  # changed or deleted while it was compared
            raise InvalidCredentials
        return open_session(user, tier_of(user.id, now), client, now)
