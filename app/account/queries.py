"""Reading everything a user has, a piece at a time, in an order that does not change meanwhile."""

from uuid import UUID

from sqlalchemy import select

from app.chatrooms.models import Chatroom
from app.core.database import db
from app.messages.models import Message
from app.users.models import User


def chatrooms_behind(user_id: UUID, after: UUID | None, *, at_most: int) -> list[Chatroom]:
    """The user's chatrooms behind the id `after`, in the order of their ids; none once the account is deleted."""
    statement = select(Chatroom).join(User, User.id == Chatroom.user_id)
    statement = statement.where(Chatroom.user_id == user_id, User.mobile.is_not(None))
    if after is not None:
        statement = statement.where(Chatroom.id > after)
    return list(db.session.scalars(statement.order_by(Chatroom.id).limit(at_most)))


def messages_behind(chatroom_id: UUID, position: int, *, at_most: int) -> list[Message]:
    """The chatroom's messages behind a position, oldest first; none once the chatroom or the account is deleted."""
    owned = select(Chatroom.id).join(User, User.id == Chatroom.user_id)
    owned = owned.where(Chatroom.id == chatroom_id, User.mobile.is_not(None))
    behind = (Message.chatroom_id == chatroom_id, Message.position > position, owned.exists())
    return list(db.session.scalars(select(Message).where(*behind).order_by(Message.position).limit(at_most)))
