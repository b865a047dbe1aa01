"""Use cases of an operator: look at failed replies, and have them generated again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select, update

from app.core.database import db
from app.core.transactions import transaction
from app.messages.models import ErrorCode, Status, messages
from app.messages.queueing import enqueue_reply

BATCH = 500


@dataclass(frozen=True)
class FailedReply:
    """A reply that failed; nothing of the conversation."""

    id: UUID
    chatroom_id: UUID
    error_code: ErrorCode
    attempts: int
    created_at: datetime
    failed_at: datetime
    request_id: str | None


def failed_replies(*, limit: int) -> Sequence[FailedReply]:
    """The replies that failed last, newest first."""
    statement = (
        select(
            messages.c.id,
            messages.c.chatroom_id,
            messages.c.error_code,
            messages.c.attempt,
            messages.c.created_at,
            messages.c.completed_at,
            messages.c.request_id,
        )
        .where(messages.c.status == Status.FAILED)
        .order_by(messages.c.completed_at.desc())
        .limit(limit)
    )
    return [FailedReply(*row) for row in db.session.execute(statement)]


def retry_failed(reply_ids: Sequence[UUID] | None, *, until: datetime, now: datetime) -> list[UUID]:
    """Put replies that failed up to `until` back into the queue, at no charge; the ids of those.

    reply_ids: None for all of them, BATCH at a time. Each sees only the turns before it.
    """
    chosen = select(messages.c.id).where(messages.c.status == Status.FAILED, messages.c.completed_at <= until)
    if reply_ids is not None:
        chosen = chosen.where(messages.c.id.in_(reply_ids))
    chosen = chosen.order_by(messages.c.completed_at).limit(BATCH).with_for_update(skip_locked=True)
    statement = (
        update(messages)
        .where(messages.c.id.in_(chosen))
        .values(
            status=Status.QUEUED,
            error_code=None,
            failures=0,
            accepted_at=now,
            started_at=None,
            not_before=now,  # it waits from now on, for whoever looks at ages
            completed_at=None,
            enqueued_at=now,
        )
        .returning(messages.c.id)
    )
    with transaction() as current:
        queued = list(db.session.scalars(statement))
        for reply_id in queued:
            enqueue_reply(current, reply_id)
    return queued
