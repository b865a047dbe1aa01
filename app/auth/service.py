"""Signing up and logging in."""

from dataclasses import dataclass
from datetime import datetime

from app.auth import events
from app.auth.errors import AccountExists, InvalidCredentials
from app.auth.models import Purpose
from app.auth.otp import COOLDOWN, LIFETIME, issue_code, proven_user
from app.auth.passwords import require_password
from app.auth.sessions import Tokens, open_session
from app.auth.throttles import CODES_BUDGET
from app.billing.models import Tier
from app.core.http import Client
from app.core.transactions import release_connection, transaction
from app.users import service as users
from app.users.models import User


@dataclass(frozen=True)
class SentCode:
    """A code that was sent. `otp`: the code, `current_otp`: the current number's; None unless OTP_DELIVERY=response."""

    mobile: str
    otp: str | None
    current_otp: str | None = None
    expires_in: int = int(LIFETIME.total_seconds())
    resend_in: int = int(COOLDOWN.total_seconds())


def sign_up(mobile: str, *, name: str | None, now: datetime) -> User:
    """Claim a number. The account works only once a code has verified the number.

    mobile: E.164. An earlier claim that was never verified is replaced.
    Raises AccountExists when the number is already verified.
    """
    with transaction():
        user = users.replace_unverified(mobile, name=name, now=now)
        if user is None:
            raise AccountExists
        user.tier = Tier.BASIC  # nobody buys Pro without a token
        return user


def send_code(mobile: str, purpose: Purpose, *, now: datetime) -> SentCode:
    """Issue and deliver a code, in the same way for known and unknown numbers. mobile: E.164.

    Raises OtpLocked, OtpCooldown, ServiceUnavailable.
    """
    with CODES_BUDGET.spend(), transaction() as tx:
        otp = issue_code(tx, mobile, purpose, now)
    return SentCode(mobile, otp=otp)


def verify_login_code(mobile: str, code: str, client: Client, *, now: datetime) -> Tokens:
    """Exchange a code for tokens; the first one verifies the number. Raises what `proven_user` does."""
    with proven_user(mobile, Purpose.LOGIN, code, client, now) as (tx, user):
        events.record_login(user.id, client, now)
        return open_session(tx, user, client, now)


def log_in(mobile: str, password: str, client: Client, *, now: datetime) -> Tokens:
    """Exchange a password for tokens. A refusal takes as long without an account or a password as with a wrong one.

    Raises InvalidCredentials, RateLimited, ServiceUnavailable.
    """
    user = users.find_user_by_mobile(mobile)
    release_connection()  # a hash may have to wait for its slot
    known_hash = user.password_hash if user is not None else None
    require_password(mobile, known_hash, password, now, when_wrong=InvalidCredentials)
    with transaction() as tx:
        user = users.lock_user_by_mobile(mobile)
        if user is None or user.password_hash != known_hash:  # changed or deleted while it was compared
            raise InvalidCredentials
        events.record_login(user.id, client, now)
        return open_session(tx, user, client, now)
