"""Finding chatrooms, always through their owner."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select, tuple_, update

from app.chatrooms.models import Chatroom
from app.core.database import db

Place = tuple[datetime, UUID]


def find_chatroom(user_id: UUID, chatroom_id: UUID) -> Chatroom | None:
    """The user's chatroom; None when there is none or it is somebody else's."""
    owned = select(Chatroom).where(Chatroom.id == chatroom_id, Chatroom.user_id == user_id)
    return db.session.scalar(owned)


def list_chatrooms(user_id: UUID, *, limit: int, after: Place | None) -> list[Chatroom]:
    """Up to `limit` chatrooms behind the place `after`, latest prompt (or creation) first."""
    statement = select(Chatroom).where(Chatroom.user_id == user_id)
    if after is not None:
        statement = statement.where(tuple_(Chatroom.last_prompt_at, Chatroom.id) < after)
    ordered = statement.order_by(Chatroom.last_prompt_at.desc(), Chatroom.id.desc()).limit(limit)
    return list(db.session.scalars(ordered))


def rename_chatroom(user_id: UUID, chatroom_id: UUID, title: str, now: datetime) -> Chatroom | None:
    owned = (Chatroom.id == chatroom_id, Chatroom.user_id == user_id)
    renamed = update(Chatroom).where(*owned).values(title=title, updated_at=now).returning(Chatroom)
    return db.session.scalar(renamed, execution_options={"populate_existing": True})


def delete_chatroom(user_id: UUID, chatroom_id: UUID) -> bool:
    owned = (Chatroom.id == chatroom_id, Chatroom.user_id == user_id)
    return db.session.scalar(delete(Chatroom).where(*owned).returning(Chatroom.id)) is not None


def reserve_positions(chatroom_id: UUID, user_id: UUID, count: int, now: datetime) -> int | None:
    """Reserve the next `count` positions of the user's chatroom for a prompt; the first of them, or None."""
    moved = (
        update(Chatroom)
        .where(Chatroom.id == chatroom_id, Chatroom.user_id == user_id)
        .values(turns=Chatroom.turns + count, updated_at=now, last_prompt_at=now)
        .returning(Chatroom.turns)
    )
    turns = db.session.scalar(moved)
    return None if turns is None else turns - count
