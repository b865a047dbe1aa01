"""What prompts took, day by day and for operators, out of the ledger."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, or_, select

from app.core import settings
from app.core.db import db
from app.core.errors import QUERY_IS_NOT_VALID, ValidationFailed
from app.quota.ledger import quota_day
from app.quota.models import PromptCharge
from app.users.service import require_user

DAYS_AT_ONCE, DAYS_SHOWN = 92, 30  # of a user's history
PER_TOKENS = 1_000_000  # what prices are for
TOKENS = (PromptCharge.prompt_tokens, PromptCharge.output_tokens, PromptCharge.thinking_tokens)
SUMS: tuple[ColumnElement[Any], ...] = (
    func.count().filter(PromptCharge.refunded_at.is_(None)).label("prompts"),
    *(func.coalesce(func.sum(column), 0).label(column.key) for column in TOKENS),
)
COUNTED = ("prompts", *(column.key for column in TOKENS))
# A refunded charge has tokens when an operator had its reply generated after all.
SPENT = (
    PromptCharge.carried_from.is_(None),
    or_(PromptCharge.refunded_at.is_(None), PromptCharge.output_tokens.is_not(None)),
)


def usage_history(user_id: UUID, *, first: date | None, last: date | None, now: datetime) -> list[dict[str, Any]]:
    """What the user's prompts took: `date` and COUNTED of each day, both ends included; by default the last DAYS_SHOWN.

    Raises ValidationFailed, TokenRevoked when the account is gone.
    """
    today = quota_day(now)
    last = last or today
    first = first or date.fromordinal(max(1, last.toordinal() - DAYS_SHOWN + 1))
    if last > today:
        raise ValidationFailed({"to": ["Must not be in the future."]}, QUERY_IS_NOT_VALID)
    if first > last:
        raise ValidationFailed({"from": ["Must not be after `to`."]}, QUERY_IS_NOT_VALID)
    if (last - first).days >= DAYS_AT_ONCE:
        raise ValidationFailed({"from": [f"No more than {DAYS_AT_ONCE} days at once."]}, QUERY_IS_NOT_VALID)
    require_user(user_id)
    of_user = (PromptCharge.user_id == user_id, PromptCharge.day.between(first, last))
    statement = select(PromptCharge.day, *SUMS).where(*of_user, *SPENT).group_by(PromptCharge.day)
    spent = {row["day"]: dict(row) for row in db.session.execute(statement).mappings()}
    days = (first + timedelta(days=number) for number in range((last - first).days + 1))
    return [{"date": day} | dict.fromkeys(COUNTED, 0) | spent.get(day, {}) for day in days]


def usage_report(first: date, last: date, by: str) -> list[dict[str, Any]]:
    """What everybody's prompts took and cost: a row for each `day`, `model` or `tier`, as `by` says.

    `cost` is None where a price is not known.
    """
    keys = (PromptCharge.day, PromptCharge.model, PromptCharge.tier)
    statement = select(*keys, *SUMS).where(*SPENT, PromptCharge.day.between(first, last)).group_by(*keys)
    rows: dict[str, dict[str, Any]] = {}
    for spent in db.session.execute(statement).mappings():
        of = str(spent[by] or "unknown")
        row = rows.setdefault(of, {by: of} | dict.fromkeys(COUNTED, 0) | {"cost": Decimal(0)})
        row |= {name: row[name] + spent[name] for name in COUNTED}
        billed_as_output = spent["output_tokens"] + spent["thinking_tokens"]
        cost = cost_of(spent["model"], spent["day"], spent["prompt_tokens"], billed_as_output)
        row["cost"] = None if row["cost"] is None or cost is None else row["cost"] + cost
    return [rows[of] for of in sorted(rows)]


def cost_of(model: str | None, day: date, prompt_tokens: int, output_tokens: int) -> Decimal | None:
    """What tokens of a model cost on a day, by MODEL_PRICES; None when it has no price for it.

    output_tokens: with those of thinking, which Google bills alike.
    """
    if not prompt_tokens and not output_tokens:
        return Decimal(0)
    known = [price for price in settings().model_prices if price.model == model and price.since <= day]
    if not known:
        return None
    price = max(known, key=lambda one: one.since)
    return (price.prompt * prompt_tokens + price.output * output_tokens) / PER_TOKENS
