"""Spending prompts, and how much of a day is used up."""

from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from uuid import UUID

from app.billing.models import Tier
from app.billing.tier import tier_of
from app.core import settings
from app.core.clock import next_midnight, seconds_until
from app.core.errors import AppError
from app.quota.counter import count_prompt
from app.quota.ledger import charged_prompts, quota_day
from app.users.models import User
from app.users.numbers import mobile_key
from app.users.service import require_user


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


class QuotaExceeded(AppError):
    """The day's prompts are spent."""

    status, code = HTTPStatus.TOO_MANY_REQUESTS, "daily_quota_exceeded"
    detail = "Today's prompts are used up. They come back at midnight UTC; Pro has no daily limit."

    def __init__(self, usage: Usage) -> None:
        super().__init__(headers=quota_headers(usage) | {"Retry-After": seconds_left(usage)})


def spend_prompt(key: str, tier: Tier, charged: int, now: datetime) -> Usage:
    """Count one more prompt of a number's day; the caller writes the charge, in the same transaction.

    key: the number's keyed hash. charged: what the ledger says was spent, read while the user's row is locked, which
    makes the count exact. Raises QuotaExceeded, redis.RedisError; then nothing was spent.
    """
    limit = daily_limit(tier)
    if not count_prompt(key, limit=limit, charged=charged, now=now):
        raise QuotaExceeded(Usage(tier, limit, charged, now))
    return Usage(tier, limit, charged + 1, now)


def daily_limit(tier: Tier) -> int | None:
    """Prompts a day; None: as many as one likes."""
    return None if tier is Tier.PRO else settings().basic_daily_prompts


def usage_of(user: User, tier: Tier, now: datetime) -> Usage:
    """What of the day is used up, by the ledger."""
    return Usage(tier, daily_limit(tier), charged_prompts(mobile_key(user.mobile), quota_day(now)), now)


def usage_today(user_id: UUID, *, now: datetime) -> Usage:
    """What the user has spent of the day. Raises TokenRevoked when the account is gone."""
    return usage_of(require_user(user_id), tier_of(user_id, now), now)


def quota_headers(usage: Usage) -> dict[str, str]:
    """`RateLimit-*` of an answer, for a tier with a limit; nothing for one without."""
    if usage.limit is None:
        return {}
    return {
        "RateLimit-Limit": str(usage.limit),
        "RateLimit-Remaining": str(usage.remaining),
        "RateLimit-Reset": seconds_left(usage),
    }


def seconds_left(usage: Usage) -> str:
    return str(seconds_until(usage.resets_at, usage.now))
