"""Spending prompts, how much of a day is used up, and the headers that tell it.

The ledger decides whether one more prompt of the day is allowed; flask-limiter counts it in Redis. When the counter
disagrees (it was lost, a refund or a crash left it too high, or Redis came back from an old snapshot), it is reset from
the ledger, and the prompt is counted again.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from typing import Any
from uuid import UUID

from limits import RateLimitItemPerDay
from sqlalchemy import bindparam, func, select

from app.billing.models import Tier
from app.billing.tier import IS_PRO, pro_values, tier_named
from app.core import settings
from app.core.api import header
from app.core.clock import next_midnight, seconds_until
from app.core.db import db
from app.core.errors import AppError
from app.core.redis import rate_limits, redis_guard
from app.quota.ledger import quota_day
from app.quota.models import PromptCharge
from app.users.models import User
from app.users.service import mobile_key, require_user

DAY_SECONDS = 86_400

QUOTA_HEADERS = {
    "RateLimit": header('Prompts left today, and seconds until midnight UTC: `"daily";r=3;t=41000`. Basic only.'),
    "RateLimit-Policy": header('Prompts in a day of so many seconds: `"daily";q=5;w=86400`. Basic only.'),
    "RateLimit-Limit": header("Prompts a day; Basic only.", "integer"),
    "RateLimit-Remaining": header("Prompts left today; Basic only.", "integer"),
    "RateLimit-Reset": header("Seconds until midnight UTC; Basic only.", "integer"),
}
UNLIMITED = 10**9  # for a tier without a limit: nobody reads that counter, but Pro needs Redis as Basic does (0002)

OF_DAY = (PromptCharge.mobile_key == bindparam("key"), PromptCharge.day == bindparam("day"))
CHARGED = select(func.count()).where(*OF_DAY, PromptCharge.refunded_at.is_(None)).scalar_subquery()
USAGE = select(IS_PRO.label("is_pro"), CHARGED.label("charged"))  # with the values of `usage_values`


@dataclass(frozen=True)
class Usage:
    """The prompts of one UTC day. `limit`: None for a tier without one."""

    tier: Tier
    limit: int | None
    used: int
    now: datetime

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used)

    @property
    def resets_at(self) -> datetime:
        return next_midnight(self.now)


def quota_headers(usage: Usage) -> dict[str, str]:
    """Return the values of QUOTA_HEADERS; empty for a tier without a limit.

    The first two are in the form of draft-ietf-httpapi-ratelimit-headers-11.
    """
    if usage.limit is None:
        return {}
    return {
        "RateLimit": f'"daily";r={usage.remaining};t={seconds_left(usage)}',
        "RateLimit-Policy": f'"daily";q={usage.limit};w={DAY_SECONDS}',
        "RateLimit-Limit": str(usage.limit),
        "RateLimit-Remaining": str(usage.remaining),
        "RateLimit-Reset": seconds_left(usage),
    }


def seconds_left(usage: Usage) -> str:
    """Seconds until the day ends, as text."""
    return str(seconds_until(usage.resets_at, usage.now))


class QuotaExceeded(AppError):
    """The day's prompts are spent."""

    status, code = HTTPStatus.TOO_MANY_REQUESTS, "daily_quota_exceeded"
    detail = "Today's prompts are used up. The quota resets at midnight UTC; Pro has no daily limit."
    described_headers = QUOTA_HEADERS

    def __init__(self, usage: Usage) -> None:
        super().__init__(headers=quota_headers(usage) | {"Retry-After": seconds_left(usage)})


def spend_prompt(key: str, usage: Usage) -> Usage:
    """Count one more prompt of a number's day; the caller writes the charge, in the same transaction.

    key: the number's keyed hash. usage: what was spent, read while the user's row is locked, so that the count is
    exact. Raises QuotaExceeded, redis.RedisError; then nothing was spent.
    """
    limit, day = UNLIMITED if usage.limit is None else usage.limit, quota_day(usage.now)
    item = RateLimitItemPerDay(limit, namespace=f"prompts/{day}")  # each day has a counter of its own
    with redis_guard():
        allowed = rate_limits().hit(item, key)
        if usage.limit is not None and allowed is not (usage.used < usage.limit):
            set_counter(item, key, usage.used)
            allowed = rate_limits().hit(item, key)
    if not allowed:
        raise QuotaExceeded(usage)
    return replace(usage, used=usage.used + 1)


def set_counter(item: RateLimitItemPerDay, key: str, charged: int) -> None:
    """Set the counter in Redis to what the ledger says."""
    storage = rate_limits().storage
    storage.clear(item.key_for(key))
    if charged:
        storage.incr(item.key_for(key), item.get_expiry(), amount=charged)


def usage_values(user: User, key: str, now: datetime) -> dict[str, Any]:
    """Return the parameters of USAGE. key: the number's keyed hash."""
    return pro_values(user.id, now) | {"key": key, "day": quota_day(now)}


def read_usage(row: Any, now: datetime) -> Usage:
    """Read a row of USAGE."""
    tier = tier_named(row.is_pro)
    limit = None if tier is Tier.PRO else settings().basic_daily_prompts
    return Usage(tier, limit, row.charged, now)


def usage_of(user: User, now: datetime) -> Usage:
    """Return the user's usage of the day, by the ledger."""
    return read_usage(db.session.execute(USAGE, usage_values(user, mobile_key(user.mobile), now)).one(), now)


def usage_today(user_id: UUID, *, now: datetime) -> Usage:
    """As `usage_of`, for a user's id. Raises TokenRevoked when the account is gone."""
    return usage_of(require_user(user_id), now)
