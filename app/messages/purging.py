"""Deletes for good what belongs to chatrooms that were deleted, a batch at a time."""

from sqlalchemy import delete, select

from app.chatrooms.models import Chatroom
from app.chatrooms.queries import lock_disowned_chatroom
from app.core.clock import utc_now
from app.core.database import db
from app.core.transactions import transaction
from app.messages import reply_stream
from app.messages.models import Role, messages

BATCH = 1_000  # messages of a transaction: with what refers to them, some tenths of a second


def purge_chatroom() -> bool:
    """Delete a batch of one deleted chatroom, the chatroom with the last; False when there is none to work at.

    Replies that are not finished go first, then the newest messages; `turns` says how far it has come. Charges stay.
    Safe to run twice at once: each takes a chatroom of its own.
    """
    with transaction() as current:
        room = lock_disowned_chatroom()
        if room is None:
            return False
        open_replies = (messages.c.role == Role.MODEL, messages.c.completed_at.is_(None))
        some = select(messages.c.id).where(messages.c.chatroom_id == room.id, *open_replies)
        unfinished = delete(messages).where(messages.c.id.in_(some.limit(BATCH)))
        rows = db.session.execute(unfinished.returning(messages.c.id, messages.c.attempt)).all()
        under_way = dict(map(tuple, rows))
        gone = list(under_way)
        room.updated_at = utc_now()
        if len(under_way) < BATCH:
            room.turns = max(0, room.turns - BATCH)
            newest = delete(messages).where(messages.c.chatroom_id == room.id, messages.c.position >= room.turns)
            gone += db.session.scalars(newest.returning(messages.c.id)).all()
            if room.turns == 0:
                db.session.execute(delete(Chatroom).where(Chatroom.id == room.id))
        if gone:
            current.after_commit(lambda: reply_stream.purge(gone, under_way=under_way))
    return True
