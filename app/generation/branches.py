"""Branches of a conversation: an edit or a new reply supersedes what it replaces, and all turns after it.

Nothing is deleted. What replaces it goes to the end of the room, so that positions order each branch, and only ended
replies are superseded, so that no worker ever writes to one that is. The caller has locked the user.
"""

from uuid import UUID

from sqlalchemy import bindparam, exists, select, update

from app.chatrooms.models import Role, messages
from app.core.db import db
from app.generation.queries import chatrooms

UNDER_WAY = select(
    exists().where(
        messages.c.chatroom_id == bindparam("room"), messages.c.role == Role.MODEL, messages.c.completed_at.is_(None)
    )
)
SUPERSEDE = (
    update(messages)
    .where(
        messages.c.chatroom_id == bindparam("room"),
        messages.c.position >= bindparam("first"),
        ~messages.c.superseded,
    )
    .values(superseded=True)
    .returning(messages.c.completed_at)
)
ONE_MORE = (
    update(chatrooms)
    .where(chatrooms.c.id == bindparam("room"))
    .values(turns=chatrooms.c.turns + 1)
    .returning(chatrooms.c.turns - 1)
)


def supersede(chatroom_id: UUID, first: int) -> bool:
    """Supersede a room's current turns from the position `first` on.

    False while a reply of the room is under way: then the caller's transaction must not be committed.
    """
    if db.session.scalar(UNDER_WAY, {"room": chatroom_id}):
        return False
    # An operator may queue a failed one again at this very moment.
    return None not in db.session.scalars(SUPERSEDE, {"room": chatroom_id, "first": first}).all()


def take_position(chatroom_id: UUID) -> int:
    """The next position of a room."""
    return int(db.session.execute(ONE_MORE, {"room": chatroom_id}).scalar_one())
