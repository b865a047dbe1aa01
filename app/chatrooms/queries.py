"""Finding chatrooms, always through their owner.

Finding messages, always through the owner of their chatroom.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, select, tuple_, update

from app.chatrooms.models import Chatroom, Message, TitleSource
from app.core.db import db

Cursor = tuple[bool, datetime, UUID]

# Built once, since most requests ask them.
IS_OWN = (Chatroom.id == bindparam("room"), Chatroom.user_id == bindparam("user"))
OWN_CHATROOM = select(Chatroom).where(*IS_OWN)
OWN_MESSAGE = (
    select(Message)
    .join(Chatroom, Chatroom.id == Message.chatroom_id)
    .where(Message.id == bindparam("message"), *IS_OWN)
)


def find_chatroom(user_id: UUID, chatroom_id: UUID) -> Chatroom | None:
    """The user's chatroom; None when there is none or it is somebody else's."""
    return db.session.scalar(OWN_CHATROOM, {"room": chatroom_id, "user": user_id})


def list_chatrooms(user_id: UUID, *, limit: int, after: Cursor | None, archived: bool) -> list[Chatroom]:
    """Up to `limit` chatrooms behind the cursor `after`: pinned ones first, then latest prompt (or creation) first."""
    statement = select(Chatroom).where(Chatroom.user_id == user_id, Chatroom.archived.is_(archived))
    order = (Chatroom.pinned, Chatroom.last_prompt_at, Chatroom.id)
    if after is not None:
        statement = statement.where(tuple_(*order) < after)
    return list(db.session.scalars(statement.order_by(*(column.desc() for column in order)).limit(limit)))


def update_chatroom(user_id: UUID, chatroom_id: UUID, changes: dict[str, Any], now: datetime) -> Chatroom | None:
    """Write these fields of the user's chatroom; None when there is none."""
    owned = (Chatroom.id == chatroom_id, Chatroom.user_id == user_id)
    updated = update(Chatroom).where(*owned).values(changes | {"updated_at": now}).returning(Chatroom)
    return db.session.scalar(updated, execution_options={"populate_existing": True})


def name_chatroom(chatroom_id: UUID, title: str, now: datetime) -> UUID | None:
    """Give a title to a chatroom that nobody has named; its owner, None when somebody has, or it is deleted."""
    unnamed = (Chatroom.title.is_(None), Chatroom.title_source.is_(None), Chatroom.user_id.is_not(None))
    statement = update(Chatroom).where(Chatroom.id == chatroom_id, *unnamed)
    values = {"title": title, "title_source": TitleSource.GENERATED, "updated_at": now}
    return db.session.scalar(statement.values(values).returning(Chatroom.user_id))


def disown_chatroom(user_id: UUID, chatroom_id: UUID, now: datetime) -> bool:
    """Take the user's chatroom from him: nobody finds it any more; whether there was one."""
    owned = (Chatroom.id == chatroom_id, Chatroom.user_id == user_id)
    disowned = update(Chatroom).where(*owned).values(user_id=None, updated_at=now).returning(Chatroom.id)
    return db.session.scalar(disowned) is not None


def disown_chatrooms(user_id: UUID, now: datetime, *, at_most: int) -> int:
    """As `disown_chatroom`, for some of the user's; how many."""
    some = select(Chatroom.id).where(Chatroom.user_id == user_id).limit(at_most)
    disowned = update(Chatroom).where(Chatroom.id.in_(some)).values(user_id=None, updated_at=now)
    return len(db.session.scalars(disowned.returning(Chatroom.id)).all())


def lock_disowned_chatroom() -> Chatroom | None:
    """The chatroom without an owner that was looked after the longest ago, unless somebody is at it right now."""
    statement = select(Chatroom).where(Chatroom.user_id.is_(None)).order_by(Chatroom.updated_at)
    return db.session.scalar(statement.limit(1).with_for_update(skip_locked=True))


def find_message(user_id: UUID, chatroom_id: UUID, message_id: UUID) -> Message | None:
    """The message, when it is in that chatroom and the chatroom is the user's."""
    asked_with = {"message": message_id, "room": chatroom_id, "user": user_id}
    return db.session.scalar(OWN_MESSAGE, asked_with, execution_options={"populate_existing": True})


def list_messages(
    chatroom_id: UUID, *, limit: int, before: int | None, with_superseded: bool = False
) -> Sequence[Message]:
    """Up to `limit` messages in front of the position `before`, newest first."""
    statement = select(Message).where(Message.chatroom_id == chatroom_id)
    if not with_superseded:
        statement = statement.where(~Message.superseded)
    if before is not None:
        statement = statement.where(Message.position < before)
    return db.session.scalars(statement.order_by(Message.position.desc()).limit(limit)).all()
