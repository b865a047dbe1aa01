"""One-time codes (NIST SP 800-63B-4, 3.1.3): they are issued and delivered, allow five guesses, and work once.

A number and its codes are stored as keyed hashes. With OTP_DELIVERY=twilio the worker sends the message, so that a slow
provider holds up no request. Until then the message waits, encrypted, in the row of its code; Redis carries only the
row's id. If the task is lost or the provider does not accept the message, the sweeper queues another until the code
ends. A message that the provider does not answer in time is not sent again: it may have been sent.
"""

import hmac
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, update

from app.auth import events
from app.auth.errors import AccountNotFound, OtpCooldown, OtpInvalid
from app.auth.models import OneTimeCode, Purpose
from app.auth.throttles import MAX_WRONG_CODES, WRONG_CODES_BUDGET, lock_throttle
from app.core import settings
from app.core.clock import seconds_until
from app.core.crypto import keyed_hash, seal, unseal
from app.core.db import db
from app.core.http import Client
from app.core.logging import log_event
from app.core.transactions import Transaction, transaction
from app.integrations.twilio import SmsRejected, SmsUnavailable, SmsUnconfirmed, send_sms
from app.users.models import User
from app.users.service import lock_user_by_mobile, mobile_key

DIGITS = 6  # NIST SP 800-63B-4: at least six decimal digits
LIFETIME = timedelta(minutes=5)  # NIST allows ten; five is enough to type six digits
MAX_GUESSES = 5
COOLDOWN = timedelta(seconds=60)  # between two codes for a number and purpose
COUNT_WINDOW = timedelta(hours=1)
MAX_CODES = 10  # for a number and purpose within COUNT_WINDOW; each purpose has its own count
SEND_CODE = "auth.send_code"  # the task's name
SMS_TEXT = "{code} is your code to {action}. It expires in {minutes} minutes. Don't share it with anyone."
ACTIONS = {  # so that nobody is talked into passing on a code that gives the account away
    Purpose.LOGIN: "log in",
    Purpose.RESET_PASSWORD: "set a new password",
    Purpose.NEW_MOBILE: "move an account to this number",
    Purpose.CURRENT_MOBILE: "move your account to another number",
}
RESEND_AFTER = timedelta(seconds=15)  # longer than Twilio may take, so that no message is sent twice
RESEND_BATCH = 100

log = logging.getLogger(__name__)


def issue_code(tx: Transaction, mobile: str, purpose: Purpose, now: datetime, *, bound_to: str = "") -> str | None:
    """Issue a new code for the number and purpose, and deliver it; an earlier one stops working.

    bound_to: what the code is good for within its purpose. Returns what `deliver` returns. Raises OtpLocked,
    OtpCooldown.
    """
    key = mobile_key(mobile)
    lock_throttle(key, now)
    check_cooldown(key, purpose, now)
    earlier = (OneTimeCode.mobile_key == key, OneTimeCode.purpose == purpose, OneTimeCode.expires_at > now)
    ended_at = OneTimeCode.created_at  # by every machine's clock: to one that is behind, `now` is still to come
    db.session.execute(update(OneTimeCode).where(*earlier).values(expires_at=ended_at, sealed=None))
    code = f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"
    row = OneTimeCode(
        mobile_key=key,
        purpose=purpose,
        code_hash=hash_code(mobile, purpose, code, bound_to),
        created_at=now,
        expires_at=now + LIFETIME,
    )
    db.session.add(row)
    db.session.flush()
    return deliver(tx, row, mobile, code)


def check_cooldown(key: str, purpose: Purpose, now: datetime) -> None:
    """Raise OtpCooldown when the number got a code for the purpose just now, or too many within the hour."""
    within_window = (
        OneTimeCode.mobile_key == key,
        OneTimeCode.purpose == purpose,
        OneTimeCode.created_at > now - COUNT_WINDOW,
    )
    statement = select(OneTimeCode.created_at).where(*within_window).order_by(OneTimeCode.created_at)
    created = db.session.scalars(statement).all()
    if len(created) >= MAX_CODES:
        raise OtpCooldown(retry_after=seconds_until(created[-MAX_CODES] + COUNT_WINDOW, now))
    if created and created[-1] > now - COOLDOWN:
        raise OtpCooldown(retry_after=seconds_until(created[-1] + COOLDOWN, now))


@contextmanager
def proven_user(
    mobile: str, purpose: Purpose, code: str, client: Client, now: datetime
) -> Iterator[tuple[Transaction, User]]:
    """Open a transaction with the user whose number the code proves, locked and verified. The code is used up.

    Only the right code locks the user. A stranger's wrong codes hold up only requests with the number's codes.
    Raises, before the block: OtpInvalid, OtpLocked, ServiceUnavailable, AccountNotFound (the code was right and is used
    up).
    """
    with WRONG_CODES_BUDGET.spend():
        with transaction() as tx:
            row = match_code(mobile, purpose, code, client, now)
            if row is not None:
                mark_used(row, now)
            user = lock_user_by_mobile(mobile) if row is not None else None
            if user is not None:
                user.verified_at = user.verified_at or now
                yield tx, user
                return
        raise OtpInvalid if row is None else AccountNotFound


def match_code(
    mobile: str, purpose: Purpose, code: str, client: Client, now: datetime, *, bound_to: str = ""
) -> OneTimeCode | None:
    """Return the number's current code if it is this one, else None. The caller uses it up, and commits either way.

    The guess is counted on the code's row and then compared; a wrong one also counts on the number's throttle, which
    stays locked until the transaction ends. client: who guesses, for the security event of the guess that locks the
    number's codes. Raises OtpLocked.
    """
    key = mobile_key(mobile)
    throttle = lock_throttle(key, now)
    usable = (
        OneTimeCode.mobile_key == key,
        OneTimeCode.purpose == purpose,
        OneTimeCode.expires_at > now,
        OneTimeCode.used_at.is_(None),
        OneTimeCode.guesses < MAX_GUESSES,
    )
    counted = update(OneTimeCode).where(*usable).values(guesses=OneTimeCode.guesses + 1).returning(OneTimeCode)
    row: OneTimeCode | None = db.session.scalar(counted, execution_options={"populate_existing": True})
    if hmac.compare_digest(newest_hash(key, purpose), hash_code(mobile, purpose, code, bound_to)):
        return row
    if throttle.wrong_codes == 0:
        throttle.wrong_codes_since = now
    throttle.wrong_codes += 1
    if throttle.wrong_codes == MAX_WRONG_CODES:
        events.record_lock(mobile, client, now)
    return None


def newest_hash(key: str, purpose: Purpose) -> str:
    """The hash of the newest code, even if it has ended: the right code, sent late or twice, is no wrong guess.

    For a number without a code, returns a hash that no code has, so that the comparison takes as long.
    """
    newest = select(OneTimeCode.code_hash).where(OneTimeCode.mobile_key == key, OneTimeCode.purpose == purpose)
    return db.session.scalar(newest.order_by(OneTimeCode.created_at.desc()).limit(1)) or hash_code("", purpose, "")


def mark_used(row: OneTimeCode, now: datetime) -> None:
    """Use a code up; the caller commits."""
    row.used_at, row.sealed = now, None


def hash_code(mobile: str, purpose: Purpose, code: str, bound_to: str = "") -> str:
    """The stored form of a code, bound to its number, its purpose and what it is good for."""
    return keyed_hash("one-time-code", mobile, purpose, code, *([bound_to] if bound_to else []))


def deliver(tx: Transaction, row: OneTimeCode, mobile: str, code: str) -> str | None:
    """Deliver the code as OTP_DELIVERY says, once `tx` is committed. Returns the code if the response shows it."""
    match settings().otp_delivery:
        case "response":
            return code
        case "log":
            tx.after_commit(lambda: log.warning("One-time code for %s: %s", mobile, code))
        case "twilio":
            row.sealed = seal(f"{mobile} {code}")
            tx.enqueue_after_commit(SEND_CODE, str(row.id))
    return None


def send_message(code_id: UUID, *, now: datetime) -> None:
    """Send the message of a code through Twilio, unless the code has ended or the message was already sent.

    The message is removed from the row first: if a worker dies while sending, nobody sends it again. If Twilio does not
    answer in time, it stays removed: Twilio may have taken it, and each sweep would send one more.
    """
    taken = take_message(code_id, now)
    if taken is None:
        return
    sealed, purpose = taken
    message = unseal(sealed)
    if message is None:
        log.error("Cannot decrypt the message of a code, so the code is lost: does this worker have web's HASH_SECRET?")
        return
    mobile, _, code = message.partition(" ")
    config = settings()
    try:
        sid = send_sms(
            mobile,
            SMS_TEXT.format(code=code, action=ACTIONS[purpose], minutes=int(LIFETIME.total_seconds() // 60)),
            account_sid=config.twilio_account_sid,
            auth_token=config.twilio_auth_token,
            sender=config.twilio_from,
            api_base=config.twilio_api_base,
        )
    except SmsRejected as error:
        log.error("Twilio refused to send a code: %s", error)  # noqa: TRY400 - the traceback adds nothing
    except SmsUnavailable as error:
        log.warning("Twilio did not accept a code; the sweeper will retry: %s", error)
        restore_message(code_id, sealed)
    except SmsUnconfirmed as error:
        log.warning("Twilio did not answer in time; it may have sent the code, so nobody sends it again: %s", error)
    else:
        log_event(log, "code_sent", code_id=code_id, sid=sid)


def take_message(code_id: UUID, now: datetime) -> tuple[str, Purpose] | None:
    """Remove the sealed message of a current code from its row. Returns it and the purpose; None if it is gone."""
    with transaction():
        statement = select(OneTimeCode).where(OneTimeCode.id == code_id, *unsent(now))
        row = db.session.scalar(statement.with_for_update(skip_locked=True))
        if row is None:
            return None
        sealed, row.sealed = str(row.sealed), None
        return sealed, row.purpose


def restore_message(code_id: UUID, sealed: str) -> None:
    """Put the message back for the sweeper, unless the code was used meanwhile. A replaced code is never sent."""
    with transaction():
        unused = (OneTimeCode.id == code_id, OneTimeCode.used_at.is_(None))
        db.session.execute(update(OneTimeCode).where(*unused).values(sealed=sealed))


def oldest_unsent(now: datetime) -> datetime | None:
    """When the oldest current code with an unsent message was issued; None when all are sent."""
    return db.session.scalar(select(func.min(OneTimeCode.created_at)).where(*unsent(now)))


def enqueue_unsent(now: datetime) -> list[UUID]:
    """Queue tasks for messages that are still unsent long after their code was issued. Returns the codes' ids."""
    overdue = select(OneTimeCode.id).where(*unsent(now), OneTimeCode.created_at < now - RESEND_AFTER)
    with transaction() as tx:
        ids = list(db.session.scalars(overdue.order_by(OneTimeCode.created_at).limit(RESEND_BATCH)))
        for code_id in ids:
            tx.enqueue_after_commit(SEND_CODE, str(code_id))
    return ids


def unsent(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """The conditions of a current code whose message is unsent."""
    return (OneTimeCode.sealed.is_not(None), OneTimeCode.expires_at > now)
