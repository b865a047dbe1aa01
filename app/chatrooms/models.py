"""The tables of chatrooms, their messages, and the idempotency keys under which either was made."""

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    false,
    literal_column,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Model, RowId, text_enum
from app.integrations.gemini.client import FinishReason

MAX_TITLE_CHARS = 255


class TitleSource(enum.StrEnum):
    """Who named a chatroom."""

    USER = "user"
    GENERATED = "generated"


class Chatroom(Model):
    """A conversation. `turns` counts its messages so far: the next one's position.

    instruction, model: the owner's choice for its replies. Without a title it gets one after its first completed reply.

    A chatroom is always found through its owner. Without an owner it is deleted, and a task purges what is left of it.
    """

    __tablename__ = "chatrooms"
    __table_args__ = (
        CheckConstraint("title <> ''", name="title_is_not_empty"),
        Index("ix_chatrooms_listed", "user_id", "archived", "pinned", "last_prompt_at", "id"),
        Index("ix_chatrooms_untitled", "last_prompt_at", postgresql_where="title IS NULL AND turns > 0"),
        Index("ix_chatrooms_deleted", "updated_at", postgresql_where="user_id IS NULL"),
    )

    id: Mapped[RowId]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), nullable=True)  # null: deleted
    title: Mapped[str | None] = mapped_column(String(MAX_TITLE_CHARS))
    title_source: Mapped[TitleSource | None] = mapped_column(text_enum(TitleSource, "title_source_is_known"))
    instruction: Mapped[str | None] = mapped_column(Text)
    model: Mapped[str | None] = mapped_column(String(100))
    pinned: Mapped[bool] = mapped_column(default=False, server_default=false())
    archived: Mapped[bool] = mapped_column(default=False, server_default=false())
    turns: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    last_prompt_at: Mapped[datetime]


class Role(enum.StrEnum):
    """Who speaks."""

    USER = "user"
    MODEL = "model"


class Status(enum.StrEnum):
    """The states of a reply; a prompt is `completed` from the start."""

    QUEUED = "queued"
    GENERATING = "generating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        return self in {Status.COMPLETED, Status.FAILED, Status.CANCELED}


class ErrorCode(enum.StrEnum):
    """Why a reply failed; public API."""

    MODEL_UNAVAILABLE = "model_unavailable"
    MODEL_TIMEOUT = "model_timeout"
    BLOCKED_BY_SAFETY = "blocked_by_safety"
    MODEL_REJECTED = "model_rejected"
    EMPTY_REPLY = "empty_reply"
    OUTPUT_LIMIT = "output_limit"


@dataclass(frozen=True)
class Context:
    """How much of the room an attempt is based on: messages sent to Gemini, and earlier ones left out."""

    messages_sent: int
    messages_omitted: int


GENERATING = "status = 'generating'"
ONE_OF_A_ROOM, ONE_IN_A_SLOT = "ix_messages_generating_by_room", "ix_messages_generating_by_slot"
# Allows one current reply per prompt and any number of superseded ones; the index also serves the foreign key.
CURRENT_OR_NUMBERED: ColumnElement[int] = literal_column("(superseded::integer * position)")


class Message(Model):
    """One turn of a chatroom: a user's prompt or the model's reply to one.

    `position` orders a room's turns; a reply comes after its prompt. What an edit or a new reply replaces is kept as
    `superseded`, with all turns after it, and the replacement goes to the end. Only the holder of the current
    `attempt`, whose lease has not been taken over, may finish a reply. A room has one reply generating at a time, and a
    user no more than there are slots.
    """

    __tablename__ = "messages"
    __table_args__ = (
        UniqueConstraint("chatroom_id", "position"),
        CheckConstraint("(role = 'model') = (in_reply_to IS NOT NULL)", name="replies_answer_a_prompt"),
        CheckConstraint("role = 'model' OR (text IS NOT NULL AND status = 'completed')", name="prompts_are_complete"),
        CheckConstraint("status <> 'completed' OR text <> ''", name="completed_has_text"),
        CheckConstraint("(status = 'failed') = (error_code IS NOT NULL)", name="failed_has_code"),
        CheckConstraint("(status = 'generating') = (lease_expires_at IS NOT NULL)", name="generating_has_lease"),
        Index("ix_messages_reply_of_prompt", "in_reply_to", CURRENT_OR_NUMBERED, unique=True),
        Index("ix_messages_superseded_by_room", "chatroom_id", "position", postgresql_where="superseded"),
        Index("ix_messages_finished", "completed_at", postgresql_where="role = 'model' AND completed_at IS NOT NULL"),
        Index("ix_messages_failed", "completed_at", postgresql_where="status = 'failed'"),
        Index("ix_messages_unfinished", "created_at", postgresql_where="status IN ('queued', 'generating')"),
        Index(
            "ix_messages_open_by_room",
            "chatroom_id",
            "position",
            postgresql_where="role = 'model' AND completed_at IS NULL",
        ),
        Index(ONE_OF_A_ROOM, "chatroom_id", unique=True, postgresql_where=GENERATING),
        Index(ONE_IN_A_SLOT, "held_for", "slot", unique=True, postgresql_where=GENERATING),
        Index(
            "ix_messages_waiting_for_slot",
            "held_for",
            "created_at",
            postgresql_where="held_for IS NOT NULL AND slot IS NULL",
        ),
    )

    id: Mapped[RowId]
    chatroom_id: Mapped[UUID] = mapped_column(ForeignKey("chatrooms.id", ondelete="CASCADE"))
    position: Mapped[int]
    role: Mapped[Role] = mapped_column(text_enum(Role, "role_is_known"))
    text: Mapped[str | None] = mapped_column(Text)
    status: Mapped[Status] = mapped_column(text_enum(Status, "status_is_known"))
    error_code: Mapped[ErrorCode | None] = mapped_column(text_enum(ErrorCode, "error_code_is_known"))
    finish_reason: Mapped[FinishReason | None] = mapped_column(text_enum(FinishReason, "finish_reason_is_known"))
    model: Mapped[str | None] = mapped_column(String(100))
    prompt_tokens: Mapped[int | None]
    output_tokens: Mapped[int | None]
    thinking_tokens: Mapped[int | None]
    cached_tokens: Mapped[int | None]
    total_tokens: Mapped[int | None]
    messages_sent: Mapped[int | None]  # to Gemini: the prompt and the room's turns before it
    messages_omitted: Mapped[int | None]
    in_reply_to: Mapped[UUID | None] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"))
    superseded: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]

    # The state of a reply's generation
    streamed: Mapped[bool] = mapped_column(default=False)
    passed_on: Mapped[bool] = mapped_column(default=False, server_default=false())  # a piece of text was published
    request_id: Mapped[str | None] = mapped_column(String(128))
    traceparent: Mapped[str | None] = mapped_column(String(55))
    attempt: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    accepted_at: Mapped[datetime | None]  # when it was last asked for: with its prompt, or by a retry
    started_at: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    enqueued_at: Mapped[datetime | None]  # when its task was last queued
    lease_expires_at: Mapped[datetime | None]
    held_for: Mapped[UUID | None]  # the user whose slot it holds while generating, or waits for while queued
    slot: Mapped[int | None] = mapped_column(SmallInteger)

    @property
    def context(self) -> Context | None:
        """What a reply is based on; None until Gemini was asked."""
        if self.messages_sent is None or self.messages_omitted is None:
            return None
        return Context(self.messages_sent, self.messages_omitted)


class IdempotencyKey(Model):
    """A client's key, and the prompt or chatroom that was made under it in the same transaction.

    A chatroom may be deleted while its key lives.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (CheckConstraint("num_nonnulls(prompt_id, chatroom_id) = 1", name="made_one_thing"),)

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    prompt_id: Mapped[UUID | None] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), index=True)
    chatroom_id: Mapped[UUID | None]
    answered_with_reply: Mapped[bool] = mapped_column(default=False)
    reply: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # as first answered: a retry changes the message
    waits_until: Mapped[datetime | None]  # until when the first request waits
    created_at: Mapped[datetime] = mapped_column(index=True)


messages = Message.__table__  # for statements that are built once
