"""Finding messages, always through the owner of their chatroom."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select

from app.chatrooms.models import Chatroom
from app.core.database import db
from app.messages.models import Message


def find_message(user_id: UUID, chatroom_id: UUID, message_id: UUID) -> Message | None:
    """The message, when it is in that chatroom and the chatroom is the user's."""
    statement = (
        select(Message)
        .join(Chatroom, Chatroom.id == Message.chatroom_id)
        .where(Message.id == message_id, Chatroom.id == chatroom_id, Chatroom.user_id == user_id)
    )
    return db.session.scalar(statement, execution_options={"populate_existing": True})


def list_messages(chatroom_id: UUID, *, limit: int, before: int | None) -> Sequence[Message]:
    """Up to `limit` messages in front of the position `before`, newest first."""
    statement = select(Message).where(Message.chatroom_id == chatroom_id)
    if before is not None:
        statement = statement.where(Message.position < before)
    return db.session.scalars(statement.order_by(Message.position.desc()).limit(limit)).all()
