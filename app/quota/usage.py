"""Spending prompts, and how much of a day is used up."""

from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from uuid import UUID

from app.billing.models import Tier
from app.billing.tier import tier_of
from app.core.clock import next_midnight, seconds_until
from app.core.errors import AppError
from app.core.settings import settings
from app.quota.counter import count_prompt
from app.quota.ledger import charge_prompt, charged_prompts, quota_day
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


def spend_prompt(user: User, tier: Tier, reply_id: UUID, now: datetime) -> Usage:
    """Spend one prompt of the day on a reply, within the caller's transaction.

    user: locked by the caller, so that counting is exact; of all that asks Redis this alone holds a connection. A Redis
    that falls silent meanwhile costs one time-out, and none to those who wait for the same user's row.
    Raises QuotaExceeded, redis.RedisError; then nothing was spent.
    """
    limit, key = daily_limit(tier), mobile_key(user.mobile)
    charged = charged_prompts(key, quota_day(now))
    if not count_prompt(key, limit=limit, charged=charged, now=now):
        raise QuotaExceeded(Usage(tier, limit, charged, now))
    charge_prompt(key, reply_id, now)
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
