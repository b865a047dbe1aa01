"""Limits for each address on the routes that need no token, and budgets of the whole service.

Those for each number are in `throttles`.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis
from limits import RateLimitItemPerHour, RateLimitItemPerMinute
from prometheus_client import Counter

from app.auth.errors import OtpInvalid
from app.core.errors import ServiceUnavailable
from app.core.limits import Limit
from app.core.logs import first_line
from app.core.redis_clients import asking_redis, rate_limits
from app.core.settings import settings

if TYPE_CHECKING:
    from config import Settings

log = logging.getLogger(__name__)

# A person needs a handful of these; the floor keeps a household behind one address going.
AUTH_REQUESTS = Limit("auth", RateLimitItemPerMinute, lambda per_minute: min(per_minute, max(10, per_minute // 4)))
CODES_SENT = Limit("codes", RateLimitItemPerHour, lambda per_minute: max(30, per_minute // 2))

BUDGET_REFUSALS = Counter("code_budget_refusals", "Requests that a budget of the whole service refused.", ["budget"])


@dataclass(frozen=True)
class Budget:
    """What all clients together may do in an hour, counted in Redis; without Redis it is open.

    amount: from the settings; 0 for no such limit. costs: what a request must raise to cost one; None: no exception.
    """

    name: str
    amount: "Callable[[Settings], int | None]"
    costs: type[Exception] | None

    @contextmanager
    def spend(self) -> Iterator[None]:
        """Count one before the block, so that parallel requests do not slip through; refund it if it cost nothing.

        Raises ServiceUnavailable when the hour's budget is used up. Holds no connection, and the block must begin and
        end without one: Redis may keep it waiting.
        """
        item = RateLimitItemPerHour(self.amount(settings()) or 0, namespace="budget")
        if not item.amount or not self.is_counted(item):
            yield
            return
        raised = None
        try:
            yield
        except Exception as error:
            raised = type(error)
            raise
        finally:
            if raised is not self.costs:
                self.refund(item)

    def is_counted(self, item: RateLimitItemPerHour) -> bool:
        """Count one; False without Redis. Raises ServiceUnavailable."""
        try:
            with asking_redis():
                spent = rate_limits().storage.incr(item.key_for(self.name), item.get_expiry())
                if spent <= item.amount:
                    return True
                window = rate_limits().get_window_stats(item, self.name)
        except redis.RedisError as error:
            log.warning("Redis does not count, and the budget of %s is open: %s", self.name, first_line(error))
            return False
        BUDGET_REFUSALS.labels(self.name).inc()
        if spent == item.amount + 1:
            log.error("%s_PER_HOUR, %d, is used up: somebody pumps or guesses", self.name.upper(), item.amount)
        raise ServiceUnavailable(
            "Codes do not work for a while: too many were asked for or wrong, from everywhere together.",
            retry_after=int(window.reset_time - time.time()) + 1,
        )

    def refund(self, item: RateLimitItemPerHour) -> None:
        try:
            with asking_redis():
                rate_limits().storage.incr(item.key_for(self.name), item.get_expiry(), amount=-1)
        except redis.RedisError as error:
            log.warning("Redis does not count, and the budget of %s is too small: %s", self.name, first_line(error))


CODES_BUDGET = Budget("codes", lambda chosen: chosen.codes_per_hour, costs=None)
WRONG_CODES_BUDGET = Budget("wrong_codes", lambda chosen: chosen.wrong_codes_per_hour, costs=OtpInvalid)

for budget in (CODES_BUDGET, WRONG_CODES_BUDGET):
    BUDGET_REFUSALS.labels(budget.name)  # a counter that is there before its first refusal can be alarmed on
