"""Queueing the generation of replies: the task carries an id, and the row says the rest."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import bindparam, select, update

from app.core.database import db
from app.core.transactions import Transaction
from app.messages.models import Role, Status, messages

GENERATE_REPLY = "messages.generate_reply"

NEXT_IN_ROOM = (
    select(messages.c.id, messages.c.status)
    .where(
        messages.c.chatroom_id == bindparam("room"), messages.c.role == Role.MODEL, messages.c.completed_at.is_(None)
    )
    .order_by(messages.c.position)
    .limit(1)
)
WAITING_FOR_SLOT = (
    select(messages.c.id)
    .where(messages.c.held_for == bindparam("user"), messages.c.slot.is_(None))
    .order_by(messages.c.created_at)
    .limit(1)
    .with_for_update(skip_locked=True, key_share=True)
)
NEXT_OF_USER = (  # without its mark, so that whoever ends next takes another one
    update(messages)
    .where(messages.c.id == WAITING_FOR_SLOT.scalar_subquery())
    .values(enqueued_at=bindparam("at"), held_for=None)
    .returning(messages.c.id, messages.c.status)
    .cte("next_of_user")
)
NEXT = select(NEXT_IN_ROOM.subquery()).union_all(select(NEXT_OF_USER))


def enqueue_reply(current: Transaction, reply_id: UUID, *, delay_seconds: float = 0) -> None:
    """Queue the reply's task once `current` is committed."""
    current.enqueue_after_commit(GENERATE_REPLY, str(reply_id), delay_seconds=delay_seconds)


def enqueue_next(
    current: Transaction, chatroom_id: UUID, user_id: UUID, *, now: datetime, but: UUID | None = None
) -> None:
    """Queue the tasks of those who waited for a reply of this room to end, and note when.

    They are the room's earliest unfinished reply, if it waits for its turn and is not `but`, and the first of the
    user's that found no free slot. A row that is locked is somebody else's to queue.
    """
    rows = db.session.execute(NEXT, {"room": chatroom_id, "user": user_id, "at": now})
    chosen = {row.id for row in rows if row.status is Status.QUEUED and row.id != but}
    if not chosen:
        return
    unlocked = select(messages.c.id).where(messages.c.id.in_(chosen)).with_for_update(skip_locked=True)
    db.session.execute(update(messages).where(messages.c.id.in_(unlocked)).values(enqueued_at=now))
    for reply_id in chosen:
        enqueue_reply(current, reply_id)
