"""Replies in numbers: the queue now, totals of what has ended, and heartbeats. Nothing of a conversation.

Totals are added up a few times a minute, so that a scrape reads some twenty rows (decision 0009 compares other ways).
One task at a time adds what has ended since the last time. It stays SETTLING behind the clock: every end from before
then is committed by now, so none comes too late to be counted. Totals never shrink, whatever is deleted or regenerated;
an end is not counted if its reply is deleted or retried before its turn.
"""

import math
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Double, String, and_, case, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from app.chatrooms.models import ErrorCode, Role, Status, messages
from app.core.db import Model, db
from app.core.transactions import transaction

UNFINISHED = (Status.QUEUED, Status.GENERATING)
REPLY_SECONDS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)  # upper bounds of the histogram
GEMINI_FAILED = (ErrorCode.MODEL_UNAVAILABLE, ErrorCode.MODEL_TIMEOUT, ErrorCode.EMPTY_REPLY)  # counted in `failures`
TOKEN_KINDS = ("prompt", "output", "thinking")
COUNTED_ROWS = 50_000  # a longer queue is shown as this long: its exact length would change nothing
BEAT = "beat"
COUNTED_UNTIL = "replies counted until"
SETTLING = timedelta(seconds=30)  # longer than a transaction that ends a reply may take
MAX_CATCH_UP = timedelta(hours=1)  # of replies that one tick counts; the next ticks count the rest


class Heartbeat(Model):
    """When something was last done."""

    __tablename__ = "heartbeats"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    at: Mapped[datetime]


class Total(Model):
    """A number that only grows, by its name and one label (empty: it has none)."""

    __tablename__ = "totals"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    label: Mapped[str] = mapped_column(String(160), primary_key=True)
    value: Mapped[float] = mapped_column(Double)


@dataclass(frozen=True)
class Queue:
    """Unfinished replies, how long the oldest due one has waited for a worker, and how old the oldest of all is."""

    by_status: dict[str, int]
    oldest_due_seconds: float
    oldest_seconds: float


def queue(now: datetime) -> Queue:
    """The unfinished replies at `now`.

    A reply is due when a worker could take it at once: it is queued, past its pause, first in its chatroom, and waits
    for no slot of its user; or it is generating under a lease that has run out.
    """
    oldest = (
        select(messages)
        .where(messages.c.status.in_(UNFINISHED))
        .order_by(messages.c.created_at)
        .limit(COUNTED_ROWS)
        .subquery()
    )
    room_position = func.row_number().over(partition_by=oldest.c.chatroom_id, order_by=oldest.c.position)
    under_way = func.count().filter(oldest.c.status == Status.GENERATING).over(partition_by=oldest.c.chatroom_id)
    unfinished = select(oldest, room_position.label("room_position"), under_way.label("under_way")).subquery()
    is_queued = and_(unfinished.c.status == Status.QUEUED, unfinished.c.held_for.is_(None))
    is_next = and_(is_queued, unfinished.c.room_position == 1, unfinished.c.under_way == 0)
    due_since = case(
        (is_next, func.coalesce(unfinished.c.not_before, unfinished.c.accepted_at, unfinished.c.created_at)),
        (unfinished.c.status == Status.GENERATING, unfinished.c.lease_expires_at),
    )
    accepted_at = func.min(func.coalesce(unfinished.c.accepted_at, unfinished.c.created_at))
    statement = select(unfinished.c.status, func.count(), func.min(due_since), accepted_at).group_by(
        unfinished.c.status
    )
    by_status, first_due, first_accepted = {str(status): 0 for status in UNFINISHED}, now, now
    for status, count, due, accepted in db.session.execute(statement):
        by_status[str(status)] = count
        first_due, first_accepted = min(first_due, due or now), min(first_accepted, accepted)
    return Queue(by_status, (now - first_due).total_seconds(), (now - first_accepted).total_seconds())


def tick(now: datetime) -> None:
    """Record that beat, broker and a worker are alive, and count what has ended."""
    statement = insert(Heartbeat).values(name=BEAT, at=now)
    later = func.greatest(Heartbeat.at, statement.excluded.at)  # an older one never replaces a newer one
    with transaction():
        db.session.execute(statement.on_conflict_do_update(index_elements=[Heartbeat.name], set_={"at": later}))
    count_replies(now)


def seconds_since_tick(now: datetime) -> float:
    """How long ago a worker last ran a tick of beat's; infinity if none has, so that an alarm goes off."""
    last = db.session.scalar(select(Heartbeat.at).where(Heartbeat.name == BEAT))
    return (now - last).total_seconds() if last else math.inf


def read_totals() -> dict[tuple[str, str], float]:
    """All totals, by name and label."""
    rows = db.session.execute(select(Total.name, Total.label, Total.value))
    return {(name, label): value for name, label, value in rows}


def count_replies(now: datetime) -> datetime | None:
    """Add the replies that ended since the last time. Returns until when, or None while another worker does so."""
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
        for (name, label), amount in sorted(finished_between(mark.at, until).items()):
            add_to_total(name, label, amount)
        mark.at = until
    return until


def finished_between(after: datetime, until: datetime) -> Counter[tuple[str, str]]:
    """The amounts to add to the totals for replies that ended within (after, until], by name and label.

    `reply_seconds_bucket` counts each completed reply once, under the smallest bound it is within. A call to Gemini
    that was cut short by a shutdown, or whose reply was canceled, is not counted.
    """
    accepted_at = func.coalesce(messages.c.accepted_at, messages.c.created_at)
    seconds = func.greatest(func.extract("epoch", messages.c.completed_at - accepted_at), 0)  # two clocks
    bucket = case(*[(seconds <= bound, str(bound)) for bound in REPLY_SECONDS], else_="+Inf")
    statement = (
        select(
            messages.c.status,
            messages.c.error_code,
            messages.c.model,
            bucket.label("bucket"),
            func.count(),
            func.sum(seconds),
            func.sum(messages.c.failures),
            func.coalesce(func.sum(messages.c.prompt_tokens), 0),
            func.coalesce(func.sum(messages.c.output_tokens), 0),
            func.coalesce(func.sum(messages.c.thinking_tokens), 0),
        )
        .where(
            messages.c.role == Role.MODEL,
            messages.c.completed_at > after,
            messages.c.completed_at <= until,
            messages.c.status.not_in(UNFINISHED),
        )
        .group_by(messages.c.status, messages.c.error_code, messages.c.model, bucket)
    )
    amounts: Counter[tuple[str, str]] = Counter()
    for row in db.session.execute(statement):
        status, code, model, bound, count, seconds_sum, failures, *tokens = row
        gemini_failed, gemini_refused = code in GEMINI_FAILED, code is ErrorCode.MODEL_REJECTED
        amounts["replies", str(code or status)] += count
        amounts["gemini_calls", "failed"] += failures
        amounts["gemini_calls", "refused"] += count if gemini_refused else 0
        answered = not gemini_failed and not gemini_refused and status is not Status.CANCELED
        amounts["gemini_calls", "answered"] += count if answered else 0
        for kind, amount in zip(TOKEN_KINDS, tokens, strict=True):
            amounts["gemini_tokens", kind] += amount
            if model:
                amounts["gemini_model_tokens", f"{kind}:{model}"] += amount
        if status is Status.COMPLETED:
            amounts["reply_seconds_bucket", bound] += count
            amounts["reply_seconds_sum", ""] += float(seconds_sum)  # type: ignore[assignment]
    return amounts


def add_to_total(name: str, label: str, amount: float) -> None:
    """Add to one total, in the caller's transaction."""
    statement = insert(Total).values(name=name, label=label, value=amount)
    grown = {"value": Total.value + statement.excluded.value}
    db.session.execute(statement.on_conflict_do_update(index_elements=[Total.name, Total.label], set_=grown))
