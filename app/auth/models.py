"""One-time codes and sessions."""

import enum
from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import db, text_enum
from app.core.ids import new_id


class Purpose(enum.StrEnum):
    """What a one-time code may be used for, and for nothing else."""

    LOGIN = "login"
    RESET_PASSWORD = "reset_password"  # noqa: S105 - a name, not a password


class OneTimeCode(db.Model):  # type: ignore[name-defined,misc]
    """A code that was sent to a number; both are kept as keyed hashes only."""

    __tablename__ = "one_time_codes"
    __table_args__ = (Index(None, "mobile_key", "purpose", "created_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    mobile_key: Mapped[str] = mapped_column(String(64))
    purpose: Mapped[Purpose] = mapped_column(text_enum(Purpose, "purpose_is_known"))
    code_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    used_at: Mapped[datetime | None]


class AuthSession(db.Model):  # type: ignore[name-defined,misc]
    """One login: what its tokens belong to. A token counts as long as its session is there, unrevoked."""

    __tablename__ = "auth_sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    ip: Mapped[str | None] = mapped_column(String(45))
    user_agent: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
