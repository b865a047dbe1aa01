"""The one place that asks what time it is; everything else takes `now` as an argument."""

from datetime import UTC, datetime, timedelta


def utc_now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)


def next_midnight(now: datetime) -> datetime:
    """The coming midnight, UTC: where one quota day ends and the next begins."""
    return (now.astimezone(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)


def seconds_until(moment: datetime, now: datetime) -> int:
    """Whole seconds from `now` to `moment`, rounded up, at least 1: what `Retry-After` wants."""
    return max(1, -int((now - moment).total_seconds() // 1))


def as_rfc3339(moment: datetime | None) -> str | None:
    """A time as RFC 3339 in UTC with `Z`, to the microsecond; null stays null."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
