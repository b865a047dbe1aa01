"""How a one-time code reaches its owner: one function for each value of OTP_DELIVERY.

Twilio is asked by the worker, so a slow provider holds no request. The message waits, encrypted, in the row
of its code; Redis carries the row's id alone. Where a task was lost or the provider did not answer, the sweeper queues
another one as long as the code lives.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select, update

from app.auth.codes import LIFETIME
from app.auth.models import OneTimeCode
from app.core.crypto import seal, unseal
from app.core.database import db
from app.core.logs import log_event
from app.core.settings import settings
from app.core.transactions import Transaction, transaction
from app.integrations.sms import SmsRejected, SmsUnavailable, Twilio

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
