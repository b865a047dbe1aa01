"""The ledger in PostgreSQL: which number spent a prompt on which reply, and on which day.

Charges and refunds happen while the user's row is locked, one after the other, which makes the ledger exact.
"""

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ScalarSelect, Update, bindparam, exists, func, insert, literal, or_, select, update
from sqlalchemy.orm import aliased
from uuid_utils.compat import uuid7

from app.billing.models import Tier
from app.core.db import db, locked_keys
from app.quota.models import NOBODY, PromptCharge

NO_SYNC = {"synchronize_session": False}
EVER = datetime.min.replace(tzinfo=UTC)
ORIGINAL = func.coalesce(PromptCharge.carried_from, PromptCharge.id)
COST = ("model", "prompt_tokens", "output_tokens", "thinking_tokens")


def quota_day(now: datetime) -> date:
    """The day that a prompt sent at `now` is charged to, in UTC."""
    return now.astimezone(UTC).date()


def new_charge(user_id: UUID, key: str, reply_id: UUID, tier: Tier, now: datetime) -> PromptCharge:
    """A prompt on the day of the user's number, not stored yet. key: the number's keyed hash."""
    charge = PromptCharge(id=uuid7(), mobile_key=key, user_id=user_id, day=quota_day(now), reply_id=reply_id)
    charge.created_at, charge.tier = now, tier
    return charge


def newest_charge(reply: Any) -> ScalarSelect[UUID]:
    """The id of a reply's last charge. reply: its id, or an expression for it."""
    charges = select(PromptCharge.id).where(PromptCharge.reply_id == reply)
    newest = charges.order_by(PromptCharge.created_at.desc(), PromptCharge.id.desc())
    return newest.limit(1).scalar_subquery()


def note_cost(reply: Any) -> Update:
    """Note beside a reply's end what it took. reply: an expression for its id. Asked with `new_<column>` for each."""
    columns = PromptCharge.__table__.c
    values = {name: bindparam(f"new_{name}", type_=columns[name].type) for name in COST}
    return update(PromptCharge).where(PromptCharge.id == newest_charge(reply)).values(values)


def refund_prompt(reply_id: UUID, now: datetime, *, charged_since: datetime = EVER) -> None:
    """Refund the reply's last charge, once, on the day it was charged to.

    The caller has locked the user. The counter in Redis is set when it refuses a prompt that the ledger allows.
    """
    charge = newest_charge(reply_id)
    charged_to = or_(PromptCharge.id == charge, PromptCharge.carried_from == charge)
    spent = (charged_to, PromptCharge.refunded_at.is_(None), PromptCharge.created_at >= charged_since)
    refunded = update(PromptCharge).where(*spent).values(refunded_at=now)
    db.session.execute(refunded, execution_options=NO_SYNC)


def disown_charges(user_id: UUID, *, at_most: int) -> int:
    """Let charges of a deleted account be nobody's, so that they count for its numbers alone; how many were.

    Those that the purge of a chatroom holds are left for the next time: to wait for each other would be a deadlock.
    """
    some = select(PromptCharge.id).where(PromptCharge.user_id == user_id).limit(at_most)
    free = PromptCharge.id.in_(locked_keys(some))
    disowned = update(PromptCharge).where(free).values(user_id=NOBODY).returning(PromptCharge.id)
    return len(db.session.scalars(disowned, execution_options=NO_SYNC).all())


def owns_charges(user_id: UUID) -> bool:
    """Whether any charge is still the user's."""
    return bool(db.session.scalar(select(exists().where(PromptCharge.user_id == user_id))))


def move_charges(old_key: str, new_key: str, now: datetime) -> None:
    """Let what was spent today with one number be spent with another too, each prompt once; it stays spent on both."""
    there, day = aliased(PromptCharge), quota_day(now)
    spent = select(
        func.gen_random_uuid(),
        literal(new_key),
        PromptCharge.day,
        PromptCharge.created_at,
        PromptCharge.tier,
        ORIGINAL,
    ).where(
        PromptCharge.mobile_key == old_key,
        PromptCharge.day == day,
        PromptCharge.refunded_at.is_(None),
        ORIGINAL.not_in(
            select(func.coalesce(there.carried_from, there.id)).where(there.mobile_key == new_key, there.day == day)
        ),
    )
    columns = ["id", "mobile_key", "day", "created_at", "tier", "carried_from"]
    db.session.execute(insert(PromptCharge).from_select(columns, spent))
