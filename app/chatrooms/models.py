"""The chatrooms table."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Model
from app.core.ids import new_id

MAX_TITLE_CHARS = 255


class Chatroom(Model):
    """A conversation. `turns` counts its messages so far: the next one's position.

    Everybody finds one through its owner: without an owner it is deleted, and a task purges what is left of it.
    """

    __tablename__ = "chatrooms"
    __table_args__ = (
        CheckConstraint("title <> ''", name="title_is_not_empty"),
        Index("ix_chatrooms_newest_first", "user_id", "last_prompt_at", "id"),
        Index("ix_chatrooms_deleted", "updated_at", postgresql_where=text("user_id IS NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), nullable=True)  # null: deleted
    title: Mapped[str] = mapped_column(String(MAX_TITLE_CHARS))
    turns: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    last_prompt_at: Mapped[datetime]
