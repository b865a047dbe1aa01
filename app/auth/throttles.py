"""Bounds on guessing and SMS pumping: limits for an address, budgets for the whole service, throttles for a number.

Limits and budgets count in Redis, and are open without it. Throttles count in PostgreSQL, for known and unknown
numbers alike. They are exact under concurrency, and nothing lifts them.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import redis
from limits import RateLimitItemPerHour, RateLimitItemPerMinute
from prometheus_client import Counter
from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert

from app.auth.errors import OtpInvalid, OtpLocked
from app.auth.models import NumberThrottle
from app.core import settings
from app.core.admission import Limit
from app.core.clock import seconds_until
from app.core.db import db
from app.core.errors import RateLimited, ServiceUnavailable
from app.core.logging import first_line
from app.core.redis import rate_limits, redis_guard, window_seconds

WRONG_CODES_WINDOW = timedelta(hours=1)
MAX_WRONG_CODES = 10  # of a million codes: even a year of guessing succeeds in under nine per cent of cases
PASSWORD_WINDOW = timedelta(minutes=15)
MAX_PASSWORD_ATTEMPTS = 10  # NIST SP 800-63B-4, 3.2.2, allows a hundred in a row; a person needs a few
# A person needs a handful of these; the floors of 10 and 30 let a household share an address.
AUTH_REQUESTS = Limit("auth", RateLimitItemPerMinute, lambda per_minute: min(per_minute, max(10, per_minute // 4)))
CODES_SENT = Limit("codes", RateLimitItemPerHour, lambda per_minute: max(30, per_minute // 2))

log = logging.getLogger(__name__)

BUDGET_REFUSALS = Counter("code_budget_refusals", "Requests that a service-wide budget refused.", ["budget"])


@dataclass(frozen=True)
class Budget:
    """What all clients together may do in an hour: the setting `{name}_per_hour`, 0 for no such limit.

    spending_error: the exception that spends one; None: success does.
    """

    name: str
    spending_error: type[Exception] | None

    def __post_init__(self) -> None:
        BUDGET_REFUSALS.labels(self.name)  # alerts need the counter before its first refusal

    @contextmanager
    def spend(self) -> Iterator[None]:
        """Count one before the block, so that parallel requests do not slip through; refund it if the block spent none.

        Hold no database connection when the block begins and ends, because Redis may keep it waiting.
        Raises ServiceUnavailable when the hour's budget is used up.
        """
        item = RateLimitItemPerHour(getattr(settings(), f"{self.name}_per_hour"), namespace="budget")
        if not item.amount or not self.count(item):
            yield
            return
        try:
            yield
        except BaseException as error:
            if type(error) is not self.spending_error:
                self.refund(item)
            raise
        if self.spending_error is not None:
            self.refund(item)

    def count(self, item: RateLimitItemPerHour) -> bool:
        """Count one. Returns False without Redis. Raises ServiceUnavailable when the budget is used up."""
        try:
            with redis_guard():
                if rate_limits().hit(item, self.name):
                    return True
                rate_limits().storage.incr(item.key_for(self.name), item.get_expiry(), amount=-1)
                refused = rate_limits().storage.incr(item.key_for(self.name, "refused"), item.get_expiry())
                retry_after = window_seconds(item, self.name)
        except redis.RedisError as error:
            log.warning("Redis is unavailable; the budget of %s is not enforced: %s", self.name, first_line(error))
            return False
        BUDGET_REFUSALS.labels(self.name).inc()
        if refused == 1:  # of this hour
            log.error("%s_PER_HOUR (%d) is used up: an attack, or too low a setting", self.name.upper(), item.amount)
        raise ServiceUnavailable(
            "Codes are temporarily unavailable: across all clients, too many were requested or guessed wrong.",
            retry_after=retry_after,
        )

    def refund(self, item: RateLimitItemPerHour) -> None:
        """Refund one; without Redis it stays spent."""
        with suppress(redis.RedisError), redis_guard():
            rate_limits().storage.incr(item.key_for(self.name), item.get_expiry(), amount=-1)


CODES_BUDGET = Budget("codes", spending_error=None)
WRONG_CODES_BUDGET = Budget("wrong_codes", spending_error=OtpInvalid)


def lock_throttle(mobile_key: str, now: datetime) -> NumberThrottle:
    """The number's row, inserted if new, locked until the transaction ends. Raises OtpLocked."""
    throttle = lock_row(mobile_key, now)
    if throttle.wrong_codes_since <= now - WRONG_CODES_WINDOW:
        throttle.wrong_codes = 0
    if throttle.wrong_codes >= MAX_WRONG_CODES:
        raise OtpLocked(retry_after=seconds_until(throttle.wrong_codes_since + WRONG_CODES_WINDOW, now))
    return throttle


def record_password_attempt(mobile_key: str, now: datetime) -> datetime:
    """Count a password before it is compared, so that parallel guesses do not slip through.

    Returns the start of the window that it counts in. The caller commits. Raises RateLimited.
    """
    throttle = lock_row(mobile_key, now)
    if throttle.password_attempts == 0 or throttle.password_attempts_since <= now - PASSWORD_WINDOW:
        throttle.password_attempts, throttle.password_attempts_since = 0, now
    if throttle.password_attempts >= MAX_PASSWORD_ATTEMPTS:
        raise RateLimited(
            "Too many wrong passwords. Use a code, or try again later.",
            retry_after=seconds_until(throttle.password_attempts_since + PASSWORD_WINDOW, now),
        )
    throttle.password_attempts += 1
    return throttle.password_attempts_since


def refund_password_attempt(mobile_key: str, window_start: datetime) -> None:
    """Refund an attempt whose password was right or was never compared; the caller commits.

    window_start: what `record_password_attempt` returned; a later window is left alone.
    """
    same_window = (NumberThrottle.mobile_key == mobile_key, NumberThrottle.password_attempts_since == window_start)
    fewer = NumberThrottle.password_attempts - 1
    db.session.execute(update(NumberThrottle).where(*same_window).values(password_attempts=fewer))


def lock_row(mobile_key: str, now: datetime) -> NumberThrottle:
    """The number's row as it is now, inserted if new, locked until the transaction ends."""
    statement = (
        insert(NumberThrottle)
        .values(mobile_key=mobile_key, wrong_codes_since=now, password_attempts_since=now, touched_at=now)
        .on_conflict_do_update(index_elements=[NumberThrottle.mobile_key], set_={NumberThrottle.touched_at: now})
        .returning(NumberThrottle)
    )
    return db.session.scalars(statement, execution_options={"populate_existing": True}).one()
