"""The table that messages are searched in."""

from uuid import UUID

from sqlalchemy import ForeignKey, Index
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Model


class SearchableMessage(Model):
    """The words of a message that is not superseded, written by a trigger on `messages` (migration 0014).

    Each word begins with a part of its owner's id, so that a search costs as much as its user has written, not as much
    as everybody has. A reader must check the owner. user_id: who owned the chatroom when the message was written. The
    rows of a deleted chatroom stay until it is purged.
    """

    __tablename__ = "searchable_messages"
    __table_args__ = (
        Index("ix_searchable_messages_user_id_message_id", "user_id", "message_id"),
        Index("ix_searchable_messages_chatroom_id_message_id", "chatroom_id", "message_id"),
        Index("ix_searchable_messages_words", "words", postgresql_using="gin"),
    )

    message_id: Mapped[UUID] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True)
    chatroom_id: Mapped[UUID]
    user_id: Mapped[UUID]
    words: Mapped[str] = mapped_column(TSVECTOR)


searchable = SearchableMessage.__table__  # for statements that are built once
