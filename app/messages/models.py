"""The keys under which prompts were accepted."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Model


class IdempotencyKey(Model):
    """A client's key and the prompt that was accepted under it, written in the prompt's own transaction."""

    __tablename__ = "idempotency_keys"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    prompt_id: Mapped[UUID] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), index=True)
    answered_with_reply: Mapped[bool] = mapped_column(default=False)
    reply: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # as it was answered with: a retry changes the message
    waits_until: Mapped[datetime | None]  # how long the first request waits for its reply
    created_at: Mapped[datetime] = mapped_column(index=True)
