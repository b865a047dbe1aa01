"""One-time codes (NIST SP 800-63B-4, 3.1.3): made, kept as keyed hashes, guessed at five times, used once."""

import hmac
import secrets
from datetime import datetime, timedelta

from sqlalchemy import select, update

from app.auth.errors import OtpCooldown
from app.auth.models import OneTimeCode, Purpose
from app.auth.throttles import lock_throttle
from app.core.clock import seconds_until
from app.core.crypto import keyed_hash
from app.core.database import db
from app.users.mobile_numbers import mobile_key

DIGITS = 6  # NIST SP 800-63B-4: at least six decimal digits
LIFETIME = timedelta(minutes=5)  # NIST allows ten; five is enough to type six digits
MAX_GUESSES = 5
COOLDOWN = timedelta(seconds=60)  # between two codes for a number and purpose
COUNT_WINDOW = timedelta(hours=1)
MAX_CODES = 10  # for a number and purpose within COUNT_WINDOW: who uses up the one leaves the other


def issue_code(mobile: str, purpose: Purpose, now: datetime) -> tuple[OneTimeCode, str]:
    """A fresh code for the number and purpose; an earlier one stops working. The row, and the code in clear.

    Raises OtpLocked, OtpCooldown.
    """
    key = mobile_key(mobile)
    lock_throttle(key, now)
    check_cooldown(key, purpose, now)
    earlier = (OneTimeCode.mobile_key == key, OneTimeCode.purpose == purpose, OneTimeCode.expires_at > now)
    db.session.execute(update(OneTimeCode).where(*earlier).values(expires_at=now, sealed=None))
    code = f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"
    row = OneTimeCode(
        mobile_key=key,
        purpose=purpose,
        code_hash=hash_code(mobile, purpose, code),
        created_at=now,
        expires_at=now + LIFETIME,
    )
    db.session.add(row)
    db.session.flush()
    return row, code


def check_cooldown(key: str, purpose: Purpose, now: datetime) -> None:
    """Raise OtpCooldown when the number got a code for the purpose just now, or too many in the hour."""
    recent = recent_codes(key, purpose, now)
    if len(recent) >= MAX_CODES:
        raise OtpCooldown(retry_after=seconds_until(recent[-MAX_CODES] + COUNT_WINDOW, now))
    if recent and recent[-1] > now - COOLDOWN:
        raise OtpCooldown(retry_after=seconds_until(recent[-1] + COOLDOWN, now))


def recent_codes(key: str, purpose: Purpose, now: datetime) -> list[datetime]:
    """When the number's codes of the last hour were made, oldest first."""
    counted = (
        OneTimeCode.mobile_key == key,
        OneTimeCode.purpose == purpose,
        OneTimeCode.created_at > now - COUNT_WINDOW,
    )
    return list(db.session.scalars(select(OneTimeCode.created_at).where(*counted).order_by(OneTimeCode.created_at)))


def use_code(mobile: str, purpose: Purpose, code: str, now: datetime) -> bool:
    """Whether `code` is the number's live one, which is used up now: so for one caller alone.

    The guess is counted before it is compared; the caller commits either way.
    Raises OtpLocked.
    """
    key = mobile_key(mobile)
    throttle = lock_throttle(key, now)
    live = (
        OneTimeCode.mobile_key == key,
        OneTimeCode.purpose == purpose,
        OneTimeCode.expires_at > now,
        OneTimeCode.used_at.is_(None),
        OneTimeCode.guesses < MAX_GUESSES,
    )
    counted = update(OneTimeCode).where(*live).values(guesses=OneTimeCode.guesses + 1).returning(OneTimeCode)
    row: OneTimeCode | None = db.session.scalar(counted, execution_options={"populate_existing": True})
    newest = select(OneTimeCode.code_hash).where(OneTimeCode.mobile_key == key, OneTimeCode.purpose == purpose)
    expected = db.session.scalar(newest.order_by(OneTimeCode.created_at.desc()).limit(1)) or hash_code("", purpose, "")
    right = hmac.compare_digest(expected, hash_code(mobile, purpose, code))
    if row is not None and right:
        row.used_at, row.sealed = now, None
        return True
    if not right:  # the right code, too late or a second time, is a mishap and no guess
        throttle.wrong_codes += 1
    return False


def hash_code(mobile: str, purpose: Purpose, code: str) -> str:
    """What is stored of a code: bound to its number and purpose."""
    return keyed_hash("one-time-code", mobile, purpose, code)
