"""Use cases of signing up and logging in."""

from dataclasses import dataclass
from datetime import datetime

from app.auth import codes
from app.auth.errors import AccountExists, AccountNotFound, OtpInvalid
from app.auth.models import Purpose
from app.auth.passwords import hash_password
from app.auth.tokens import Client, Tokens, open_session
from app.billing.service import tier_of
from app.core.settings import settings
from app.core.transactions import transaction
from app.users import queries as users
from app.users.profiles import Profile


@dataclass(frozen=True)
class SentCode:
    """What the asker of a code is told; `otp` only where the response is the delivery."""

    mobile: str
    expires_in: int
    resend_in: int
    otp: str | None


def sign_up(mobile: str, *, name: str | None, password: str | None, now: datetime) -> Profile:
    """Claim a number. Nothing counts, the password included, until a code proves that the number is one's own.

    mobile: E.164. An earlier claim that was never verified is replaced.
    Raises AccountExists when the number's owner has verified it.
    """
    password_hash = hash_password(password) if password else None
    with transaction():
        user = users.replace_unverified(mobile, name=name, password_hash=password_hash, now=now)
        if user is None:
            raise AccountExists
        return Profile.of(user, tier_of(user.id, now))


def send_login_code(mobile: str, *, now: datetime) -> SentCode:
    """Make a code for logging in, the same way for known and unknown numbers. mobile: E.164."""
    with transaction():
        code = codes.issue_code(mobile, Purpose.LOGIN, now)
    shown = code if settings().otp_delivery == "response" else None
    return SentCode(mobile, expires_in=int(codes.LIFETIME.total_seconds()), resend_in=0, otp=shown)


def verify_login_code(mobile: str, code: str, client: Client, *, now: datetime) -> Tokens:
    """Trade a code for tokens; the first one verifies the number.

    Raises OtpInvalid, AccountNotFound (the code was right and is used up).
    """
    with transaction():
        if not codes.use_code(mobile, Purpose.LOGIN, code, now):
            raise OtpInvalid
        user = users.find_user_by_mobile(mobile)
        if user is not None:
            user.verified_at = user.verified_at or now
            return open_session(user, tier_of(user.id, now), client, now)
    raise AccountNotFound
