"""Queueing the generation of replies: the task carries an id, and the row says the rest."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import bindparam, select, update

from app.core.database import db
from app.core.transactions import Transaction
from app.messages.leases import UNFINISHED
from app.messages.models import Status, messages

GENERATE_REPLY = "messages.generate_reply"

NEXT_IN_ROOM = (
    select(messages.c.id, messages.c.status)
    .where(messages.c.chatroom_id == bindparam("room"), messages.c.status.in_(UNFINISHED))
    .order_by(messages.c.position)
    .limit(1)
)


def enqueue_reply(current: Transaction, reply_id: UUID, *, delay_seconds: float = 0) -> None:
    """Queue the reply's task once `current` is committed."""
    current.enqueue_after_commit(GENERATE_REPLY, str(reply_id), delay_seconds=delay_seconds)


def enqueue_next(current: Transaction, chatroom_id: UUID, *, now: datetime, but: UUID | None = None) -> None:
    """Queue the task of the room's next reply, unless that is `but`, and note when.

    Next is the earliest unfinished reply, if it waits for its turn. A row that is locked is somebody else's to queue.
    """
    row = db.session.execute(NEXT_IN_ROOM, {"room": chatroom_id}).one_or_none()
    if row is None or row.status is not Status.QUEUED or row.id == but:
        return
    unlocked = select(messages.c.id).where(messages.c.id == row.id).with_for_update(skip_locked=True)
    db.session.execute(update(messages).where(messages.c.id.in_(unlocked)).values(enqueued_at=now))
    enqueue_reply(current, row.id)
