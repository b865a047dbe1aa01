"""The ledger in PostgreSQL: which number spent a prompt on which reply and day, what the reply took, and reports.

Charges and refunds happen one after the other, while the user's row is locked, so the ledger is exact.
"""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    ScalarSelect,
    Update,
    bindparam,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.orm import aliased
from uuid_utils.compat import uuid7

from app.billing.models import Tier
from app.core import settings
from app.core.db import db, locked_keys
from app.core.errors import QUERY_IS_NOT_VALID, ValidationFailed
from app.quota.models import NOBODY, PromptCharge
from app.users.service import require_user

NO_SYNC = {"synchronize_session": False}
DISTANT_PAST = datetime.min.replace(tzinfo=UTC)
ORIGINAL = func.coalesce(PromptCharge.carried_from, PromptCharge.id)
TOKENS = ("prompt_tokens", "output_tokens", "thinking_tokens")
COST, COUNTED = ("model", *TOKENS), ("prompts", *TOKENS)
MAX_DAYS, DEFAULT_DAYS = 92, 30  # of a user's history
PER_TOKENS = 1_000_000  # the unit of prices
SUMS: tuple[ColumnElement[Any], ...] = (
    func.count().filter(PromptCharge.refunded_at.is_(None)).label("prompts"),
    *(func.coalesce(func.sum(getattr(PromptCharge, name)), 0).label(name) for name in TOKENS),
)
# A refunded charge has tokens when an operator had its reply generated after all.
SPENT = (
    PromptCharge.carried_from.is_(None),
    or_(PromptCharge.refunded_at.is_(None), PromptCharge.output_tokens.is_not(None)),
)


def quota_day(now: datetime) -> date:
    """The day that a prompt sent at `now` is charged to, in UTC."""
    return now.astimezone(UTC).date()


def new_charge(user_id: UUID, key: str, reply_id: UUID, tier: Tier, now: datetime) -> PromptCharge:
    """Return a charge for a prompt of the number, not stored yet. key: the number's keyed hash."""
    charge = PromptCharge(id=uuid7(), mobile_key=key, user_id=user_id, day=quota_day(now), reply_id=reply_id)
    charge.created_at, charge.tier = now, tier
    return charge


def newest_charge(reply: Any) -> ScalarSelect[UUID]:
    """The id of a reply's last charge. reply: its id, or an expression for it."""
    charges = select(PromptCharge.id).where(PromptCharge.reply_id == reply)
    newest = charges.order_by(PromptCharge.created_at.desc(), PromptCharge.id.desc())
    return newest.limit(1).scalar_subquery()


def note_cost(reply: Any) -> Update:
    """The update that notes a reply's COST in its last charge, from `new_<column>`. reply: an expression for its id."""
    columns = PromptCharge.__table__.c
    values = {name: bindparam(f"new_{name}", type_=columns[name].type) for name in COST}
    return update(PromptCharge).where(PromptCharge.id == newest_charge(reply)).values(values)


def refund_prompt(reply_id: UUID, now: datetime, *, charged_since: datetime = DISTANT_PAST) -> None:
    """Refund the reply's last charge and its copies, once, on the day they were charged to.

    A charge from before `charged_since` stays. The caller has locked the user. The counter in Redis is reset later,
    when it refuses a prompt that the ledger allows.
    """
    charge = newest_charge(reply_id)
    charged_to = or_(PromptCharge.id == charge, PromptCharge.carried_from == charge)
    spent = (charged_to, PromptCharge.refunded_at.is_(None), PromptCharge.created_at >= charged_since)
    refunded = update(PromptCharge).where(*spent).values(refunded_at=now)
    db.session.execute(refunded, execution_options=NO_SYNC)


def disown_charges(user_id: UUID, *, limit: int) -> int:
    """Give charges of a deleted account to NOBODY, so that they count for its numbers alone. Returns how many.

    Charges that the purge of a chatroom has locked are left for the next time: waiting for each other would deadlock.
    """
    some = select(PromptCharge.id).where(PromptCharge.user_id == user_id).limit(limit)
    unlocked = PromptCharge.id.in_(locked_keys(some))
    disowned = update(PromptCharge).where(unlocked).values(user_id=NOBODY).returning(PromptCharge.id)
    return len(db.session.scalars(disowned, execution_options=NO_SYNC).all())


def owns_charges(user_id: UUID) -> bool:
    """Whether any charge is still the user's."""
    return bool(db.session.scalar(select(exists().where(PromptCharge.user_id == user_id))))


def move_charges(old_key: str, new_key: str, now: datetime) -> None:
    """Copy what was spent with one number to another, each prompt once: it stays spent on both.

    Copies today, the day before and the day after. Around midnight, a prompt of the old day may still wait for this
    change, and a prompt of the new day may have overtaken it.
    """
    existing, today = aliased(PromptCharge), quota_day(now)
    first, last = today - timedelta(days=1), today + timedelta(days=1)
    spent = select(
        func.gen_random_uuid(),
        literal(new_key),
        PromptCharge.day,
        PromptCharge.created_at,
        PromptCharge.tier,
        ORIGINAL,
    ).where(
        PromptCharge.mobile_key == old_key,
        PromptCharge.day.between(first, last),
        PromptCharge.refunded_at.is_(None),
        ORIGINAL.not_in(
            select(func.coalesce(existing.carried_from, existing.id)).where(
                existing.mobile_key == new_key, existing.day.between(first, last)
            )
        ),
    )
    columns = ["id", "mobile_key", "day", "created_at", "tier", "carried_from"]
    db.session.execute(insert(PromptCharge).from_select(columns, spent))


def usage_history(user_id: UUID, *, first: date | None, last: date | None, now: datetime) -> list[dict[str, Any]]:
    """Return what the user's prompts took: a row for each day from `first` to `last`, with `date` and COUNTED.

    By default these are the last DEFAULT_DAYS days. Raises ValidationFailed, TokenRevoked when the account is gone.
    """
    today = quota_day(now)
    last = last or today
    first = first or date.fromordinal(max(1, last.toordinal() - DEFAULT_DAYS + 1))
    if last > today:
        raise ValidationFailed({"to": ["Must not be in the future."]}, QUERY_IS_NOT_VALID)
    if first > last:
        raise ValidationFailed({"from": ["Must not be after `to`."]}, QUERY_IS_NOT_VALID)
    if (last - first).days >= MAX_DAYS:
        raise ValidationFailed({"from": [f"No more than {MAX_DAYS} days at once."]}, QUERY_IS_NOT_VALID)
    require_user(user_id)
    in_period = (PromptCharge.user_id == user_id, PromptCharge.day.between(first, last))
    statement = select(PromptCharge.day, *SUMS).where(*in_period, *SPENT).group_by(PromptCharge.day)
    spent = {row["day"]: dict(row) for row in db.session.execute(statement).mappings()}
    days = (first + timedelta(days=offset) for offset in range((last - first).days + 1))
    return [{"date": day} | dict.fromkeys(COUNTED, 0) | spent.get(day, {}) for day in days]


def usage_report(first: date, last: date, by: str) -> list[dict[str, Any]]:
    """Return what everybody's prompts took and cost, a row for each `day`, `model` or `tier`, as `by` says.

    `cost` is None where a price is not known.
    """
    keys = (PromptCharge.day, PromptCharge.model, PromptCharge.tier)
    statement = select(*keys, *SUMS).where(*SPENT, PromptCharge.day.between(first, last)).group_by(*keys)
    rows: dict[str, dict[str, Any]] = {}
    for spent in db.session.execute(statement).mappings():
        group = str(spent[by] or "unknown")
        row = rows.setdefault(group, {by: group} | dict.fromkeys(COUNTED, 0) | {"cost": Decimal(0)})
        row |= {name: row[name] + spent[name] for name in COUNTED}
        billed_as_output = spent["output_tokens"] + spent["thinking_tokens"]
        cost = cost_of(spent["model"], spent["day"], spent["prompt_tokens"], billed_as_output)
        row["cost"] = None if row["cost"] is None or cost is None else row["cost"] + cost
    return [rows[group] for group in sorted(rows)]


def cost_of(model: str | None, day: date, prompt_tokens: int, output_tokens: int) -> Decimal | None:
    """Return what tokens of a model cost on a day, by MODEL_PRICES; None if there is no price for it.

    output_tokens: including those of thinking, which Google bills as output.
    """
    if not prompt_tokens and not output_tokens:
        return Decimal(0)
    known = [price for price in settings().model_prices if price.model == model and price.since <= day]
    if not known:
        return None
    price = max(known, key=lambda one: one.since)
    return (price.prompt * prompt_tokens + price.output * output_tokens) / PER_TOKENS
