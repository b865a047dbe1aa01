"""One-time codes (NIST SP 800-63B-4, 3.1.3): made, kept as keyed hashes, guessed at five times, used once.

How a one-time code reaches its owner: one function for each value of OTP_DELIVERY.

Twilio is asked by the worker, so a slow provider holds no request. The message waits, encrypted, in the row
of its code; Redis carries the row's id alone. Where a task was lost or the provider did not answer, the sweeper queues
another one as long as the code lives.
"""

import hmac
import logging
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select, update

from app.auth.errors import OtpCooldown
from app.auth.models import OneTimeCode, Purpose
from app.auth.throttles import lock_throttle
from app.core import settings
from app.core.clock import seconds_until
from app.core.crypto import keyed_hash, seal, unseal
from app.core.db import db
from app.core.logging import log_event
from app.core.transactions import Transaction, transaction
from app.integrations.twilio import SmsRejected, SmsUnavailable, Twilio
from app.users.numbers import mobile_key

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


log = logging.getLogger(__name__)

SEND_CODE = "auth.send_code"
SEAL = "one-time-code"
TEXT = "{code} is your code. It is good for {minutes} minutes. Never tell it to anybody."
RESEND_AFTER = timedelta(seconds=15)  # above what Twilio may take, so that nobody sends beside a sender
BATCH = 100

Delivery = Callable[[Transaction, OneTimeCode, str, str, datetime], str | None]


def deliver(current: Transaction, row: OneTimeCode, mobile: str, code: str, now: datetime) -> str | None:
    """Bring the code on its way once `current` is committed; the code, where the response is the way."""
    return DELIVERIES[settings().otp_delivery](current, row, mobile, code, now)


def by_response(_current: Transaction, _row: OneTimeCode, _mobile: str, code: str, _now: datetime) -> str | None:
    """For development: whoever asks is told."""
    return code


def by_log(current: Transaction, _row: OneTimeCode, mobile: str, code: str, _now: datetime) -> str | None:
    """For development: whoever reads the log is told."""
    current.after_commit(lambda: log.warning("One-time code for %s: %s", mobile, code))
    return None


def by_twilio(current: Transaction, row: OneTimeCode, mobile: str, code: str, now: datetime) -> str | None:
    """By text message, through the worker."""
    row.sealed = seal(SEAL, f"{mobile} {code}", now)
    current.enqueue_after_commit(SEND_CODE, str(row.id))
    return None


DELIVERIES: dict[str, Delivery] = {"response": by_response, "log": by_log, "twilio": by_twilio}


def send_code(code_id: UUID, *, now: datetime) -> None:
    """Send the message of a code by Twilio, unless the code has ended or the message is sent already.

    Taking the message out of the row comes first: a worker that dies while sending sends once, not twice.
    """
    sealed = take_message(code_id, now)
    message = unseal(SEAL, sealed, max_age=LIFETIME, now=now) if sealed else None
    if sealed is None or message is None:
        return
    mobile, _, code = message.partition(" ")
    try:
        sid = twilio().send(mobile, TEXT.format(code=code, minutes=int(LIFETIME.total_seconds() // 60)))
    except SmsRejected as error:
        log.error("Twilio refuses to send a code: %s", error)  # noqa: TRY400 - the traceback tells nothing more
    except SmsUnavailable as error:
        log.warning("Twilio did not take a code; the sweeper tries again: %s", error)
        put_back(code_id, sealed)
    else:
        log_event(log, "code_sent", code_id=code_id, sid=sid)


def take_message(code_id: UUID, now: datetime) -> str | None:
    """The sealed message of a code that lives, taken out of its row; None when there is none."""
    with transaction():
        waiting = (OneTimeCode.id == code_id, OneTimeCode.sealed.is_not(None), OneTimeCode.expires_at > now)
        row: OneTimeCode | None = db.session.scalar(
            select(OneTimeCode).where(*waiting).with_for_update(skip_locked=True)
        )
        if row is None:
            return None
        sealed, row.sealed = row.sealed, None
        return sealed


def put_back(code_id: UUID, sealed: str) -> None:
    """Let the sweeper find the message again, unless the code was used or replaced meanwhile."""
    with transaction():
        unused = (OneTimeCode.id == code_id, OneTimeCode.used_at.is_(None))
        db.session.execute(update(OneTimeCode).where(*unused).values(sealed=sealed))


def enqueue_unsent(now: datetime) -> list[UUID]:
    """Queue tasks for messages that still wait long after their code was made; the codes' ids."""
    waiting = (
        OneTimeCode.sealed.is_not(None),
        OneTimeCode.created_at < now - RESEND_AFTER,
        OneTimeCode.expires_at > now,
    )
    statement = select(OneTimeCode.id).where(*waiting).order_by(OneTimeCode.created_at).limit(BATCH)
    with transaction() as current:
        ids = list(db.session.scalars(statement))
        for code_id in ids:
            current.enqueue_after_commit(SEND_CODE, str(code_id))
    return ids


def twilio() -> Twilio:
    chosen = settings()
    return Twilio(
        account_sid=chosen.twilio_account_sid,
        auth_token=chosen.twilio_auth_token,
        sender=chosen.twilio_from,
        api_base=chosen.twilio_api_base,
    )
