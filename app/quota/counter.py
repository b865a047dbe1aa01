"""The counter in Redis: flask-limiter's strategy decides whether one more prompt of the day is allowed.

Where its answer and the ledger's differ, Redis has lost the counter, a crash has left it too high, or it came back from
an old snapshot: then it is set to what the ledger says, and asked again.
"""

from datetime import datetime

from limits import RateLimitItem
from limits.limits import Granularity

from app.core.clock import next_midnight, seconds_until
from app.core.redis import asking_redis, rate_limits
from app.quota.ledger import quota_day

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


def count_prompt(key: str, *, limit: int | None, charged: int, now: datetime) -> bool:
    """Count one prompt of the number's day; whether it is within the limit.

    limit: None for a tier without one. charged: what the ledger says was spent so far. Raises redis.RedisError.
    """
    item = PromptsOfDay(UNLIMITED if limit is None else limit, now)
    with asking_redis():
        allowed = rate_limits().hit(item, key)
        if limit is not None and allowed is not (charged < limit):
            set_counter(item, key, charged)
            allowed = rate_limits().hit(item, key)
        return bool(allowed)


def set_counter(item: PromptsOfDay, key: str, charged: int) -> None:
    """Let the counter say what the ledger says."""
    storage = rate_limits().storage
    storage.clear(item.key_for(key))
    if charged:
        storage.incr(item.key_for(key), item.get_expiry(), amount=charged)
