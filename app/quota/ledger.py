"""The ledger in PostgreSQL: which number spent a prompt on which reply, and on which day.

Charges and refunds happen while the user's row is locked, one after the other, which makes the ledger exact.
"""

from datetime import UTC, date, datetime
from uuid import UUID

from sqlalchemy import func, select, update

from app.core.db import db
from app.quota.models import PromptCharge


def quota_day(now: datetime) -> date:
    """The day that a prompt sent at `now` is charged to, in UTC."""
    return now.astimezone(UTC).date()


def charged_prompts(key: str, day: date) -> int:
    """How many prompts of the day a number has spent. key: the number's keyed hash."""
    spent = (PromptCharge.mobile_key == key, PromptCharge.day == day, PromptCharge.given_back_at.is_(None))
    return db.session.scalar(select(func.count()).select_from(PromptCharge).where(*spent)) or 0


def charge_prompt(key: str, reply_id: UUID, now: datetime) -> None:
    """Charge a prompt to the number's day, within the caller's transaction."""
    db.session.add(PromptCharge(mobile_key=key, day=quota_day(now), reply_id=reply_id, created_at=now))


def refund_prompt(reply_id: UUID, now: datetime) -> bool:
    """Refund the reply's last charge, once, on the day it was charged to; whether this call did it.

    The caller has locked the user. The counter in Redis learns of it with the next prompt.
    """
    newest = (
        select(PromptCharge.id)
        .where(PromptCharge.reply_id == reply_id)
        .order_by(PromptCharge.created_at.desc(), PromptCharge.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    statement = (
        update(PromptCharge)
        .where(PromptCharge.id == newest, PromptCharge.given_back_at.is_(None))
        .values(given_back_at=now)
        .returning(PromptCharge.id)
    )
    return db.session.scalar(statement) is not None
