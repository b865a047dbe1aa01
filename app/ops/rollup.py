"""Totals of what workers did, added up a few times a minute, so that a scrape reads some twenty rows.

Counting all messages at each scrape would read millions of rows; a counter in the transaction that finishes a reply
would make all workers wait for one row. So one task at a time adds what has ended since the last time. It stays
SETTLING behind the clock: what ended earlier than that is committed and will not appear behind its back. Totals
never shrink, as Prometheus wants it, whatever is deleted or generated anew.
"""

from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from app.core.database import db
from app.core.transactions import transaction
from app.messages import statistics
from app.ops.models import Heartbeat, Total

BEAT = "beat"
COUNTED_UNTIL = "replies counted until"
SETTLING = timedelta(seconds=30)  # above what a transaction that ends a reply may take
MAX_CATCH_UP = timedelta(hours=1)  # of replies in one go; the next ones follow at the next ticks


def tick(now: datetime) -> None:
    """Beat, broker and a worker are alive: write it down, and count what has ended."""
    with transaction():
        beat(BEAT, now)
    count_replies(now)


def beat(name: str, at: datetime) -> None:
    """Note a sign of life, in the caller's transaction. An older one never replaces a newer one."""
    statement = insert(Heartbeat).values(name=name, at=at)
    later = func.greatest(Heartbeat.at, statement.excluded.at)
    db.session.execute(statement.on_conflict_do_update(index_elements=[Heartbeat.name], set_={"at": later}))


def last_beat(name: str) -> datetime | None:
    at: datetime | None = db.session.scalar(select(Heartbeat.at).where(Heartbeat.name == name))
    return at


def count_replies(now: datetime) -> datetime | None:
    """Add the replies that ended since the last time; until when they are counted (None: somebody else is at it)."""
    with transaction():
        first = insert(Heartbeat).values(name=COUNTED_UNTIL, at=now - SETTLING)
        db.session.execute(first.on_conflict_do_nothing())
        taken = select(Heartbeat).where(Heartbeat.name == COUNTED_UNTIL).with_for_update(skip_locked=True)
        mark: Heartbeat | None = db.session.scalar(taken, execution_options={"populate_existing": True})
        if mark is None:
            return None
        until = min(now - SETTLING, mark.at + MAX_CATCH_UP)
        if until <= mark.at:
            return mark.at
        for (name, label), amount in sorted(statistics.finished_between(mark.at, until).items()):
            add_to_total(name, label, amount)
        mark.at = until
    return until


def add_to_total(name: str, label: str, amount: float) -> None:
    statement = insert(Total).values(name=name, label=label, value=amount)
    grown = {"value": Total.value + statement.excluded.value}
    db.session.execute(statement.on_conflict_do_update(index_elements=[Total.name, Total.label], set_=grown))


def totals() -> dict[tuple[str, str], float]:
    """All totals, by name and label."""
    rows = db.session.execute(select(Total.name, Total.label, Total.value))
    return {(name, label): value for name, label, value in rows}
