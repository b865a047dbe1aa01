"""When a failed attempt is made again."""

import random
from datetime import datetime, timedelta

FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 20.0


def delay_before_retry(
    failures: int,
    *,
    asked_for: float | None,
    started_at: datetime,
    now: datetime,
    max_attempts: int,
    max_seconds: float,
) -> timedelta | None:
    """How long to wait before the next attempt; None when there is to be none.

    failures: attempts that failed so far. asked_for: seconds that the provider asks for, never undercut.
    The delay doubles with each failure, and a random half of it spreads those that failed together.
    """
    if failures >= max_attempts:
        return None
    delay = min(FIRST_DELAY_SECONDS * 2 ** (failures - 1), MAX_DELAY_SECONDS) * random.uniform(0.5, 1)  # noqa: S311
    delay = max(delay, asked_for or 0)
    if now + timedelta(seconds=delay) > started_at + timedelta(seconds=max_seconds):
        return None
    return timedelta(seconds=delay)
