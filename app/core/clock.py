"""The only module that asks `datetime` for the time; it also formats times.

Use cases take `now` as an argument, aware and in UTC.
"""

from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from app.core.db import db


def utc_now() -> datetime:
    """Return the time by this machine's clock, aware and in UTC."""
    return datetime.now(UTC)


def database_now() -> datetime:
    """Return PostgreSQL's time, which all processes share: that of the transaction's start, if there is one."""
    return db.session.execute(select(func.now())).scalar_one()


def next_midnight(now: datetime) -> datetime:
    """Return the next midnight in UTC, where one quota day ends and the next begins."""
    return (now.astimezone(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)


def seconds_until(moment: datetime, now: datetime) -> int:
    """Return the whole seconds from `now` to `moment`, rounded up, at least 1: a value for `Retry-After`."""
    return max(1, -int((now - moment).total_seconds() // 1))


def as_rfc3339(moment: datetime | None, timespec: str = "microseconds") -> str | None:
    """Format a time as RFC 3339 in UTC with `Z`. None stays None.

    timespec: the smallest unit shown, as in `datetime.isoformat`.
    """
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
