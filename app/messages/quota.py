"""The daily quota: counted in Redis by flask-limiter's strategy, backed by the ledger in PostgreSQL.

Spending and giving back happen while the user's row is locked (`users.queries.lock_user`), so one after the
other, which makes the ledger exact. A counter that Redis has lost, that a crash left too high, or that came back
from an old snapshot too low is set to what the ledger says before a tier with a limit is counted.
"""

from datetime import UTC, date, datetime
from uuid import UUID

from limits import RateLimitItem
from limits.limits import Granularity
from sqlalchemy import func, select, update

from app.billing.models import Tier
from app.core.clock import next_midnight, seconds_until
from app.core.database import db
from app.core.redis_clients import asking_redis, rate_limits
from app.core.settings import settings
from app.messages.errors import QuotaExceeded
from app.messages.models import PromptCharge
from app.messages.usage import Usage
from app.users.mobile_numbers import mobile_key
from app.users.models import User

UNLIMITED = 10**9  # what flask-limiter is told for a tier without a limit: its prompts count all the same


class PromptsOfDay(RateLimitItem):
    """A limit on one calendar day: its key names the day, and it expires at the next midnight UTC."""

    GRANULARITY = Granularity(86_400, "utcday")
    __slots__ = ("now",)

    def __init__(self, amount: int, now: datetime) -> None:
        super().__init__(amount, namespace="prompts")
        self.now = now

    def get_expiry(self) -> int:
        return seconds_until(next_midnight(self.now), self.now)

    def key_for(self, *identifiers: bytes | str | int | float) -> str:
        return "/".join([self.namespace, quota_day(self.now).isoformat(), *map(str, identifiers)])


def quota_day(now: datetime) -> date:
    """The day that a prompt sent at `now` is charged to."""
    return now.astimezone(UTC).date()


def daily_limit(tier: Tier) -> int | None:
    return None if tier is Tier.PRO else settings().basic_daily_prompts


def spend_prompt(user: User, tier: Tier, reply_id: UUID, now: datetime) -> Usage:
    """Spend one prompt of the day on a reply, within the caller's transaction.

    user: locked by the caller, so that counting is exact; of all that asks Redis this alone holds a connection. A Redis
    that falls silent meanwhile costs one time-out, and none to those who wait for the same user's row.
    Raises QuotaExceeded, redis.RedisError; then nothing was spent.
    """
    limit = daily_limit(tier)
    item = PromptsOfDay(UNLIMITED if limit is None else limit, now)
    key = mobile_key(user.mobile)
    used = charged_prompts(key, quota_day(now))
    with asking_redis():
        if limit is not None:
            set_counter(item, key, used)
        if not rate_limits().hit(item, key):
            raise QuotaExceeded(Usage(tier, limit, used, now))
    db.session.add(PromptCharge(mobile_key=key, day=quota_day(now), reply_id=reply_id, created_at=now))
    return Usage(tier, limit, used + 1, now)


def set_counter(item: PromptsOfDay, key: str, used: int) -> None:
    """Let the counter say what the ledger says."""
    storage = rate_limits().storage
    if storage.get(item.key_for(key)) == used:
        return
    storage.clear(item.key_for(key))
    if used:
        storage.incr(item.key_for(key), item.get_expiry(), amount=used)


def usage_of(user: User, tier: Tier, now: datetime) -> Usage:
    """What of the day is used up, by the ledger."""
    return Usage(tier, daily_limit(tier), charged_prompts(mobile_key(user.mobile), quota_day(now)), now)


def give_back(reply_id: UUID, now: datetime) -> bool:
    """Give the reply's last prompt back, once, to the day it was charged to; whether this call did it.

    The caller has locked the user. The counter learns of it with the next prompt.
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


def charged_prompts(key: str, day: date) -> int:
    spent = (PromptCharge.mobile_key == key, PromptCharge.day == day, PromptCharge.given_back_at.is_(None))
    return db.session.scalar(select(func.count()).select_from(PromptCharge).where(*spent)) or 0
