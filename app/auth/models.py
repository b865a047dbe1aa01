"""One-time codes, throttles against guessing, sessions and their refresh tokens, API keys, security events."""

import enum
from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.auth import Scope
from app.core.db import Model, RowId, text_enum


class Purpose(enum.StrEnum):
    """What a one-time code may be used for, and for nothing else."""

    LOGIN = "login"
    RESET_PASSWORD = "reset_password"  # noqa: S105 - a name, not a password
    NEW_MOBILE = "new_mobile"
    CURRENT_MOBILE = "current_mobile"


class OneTimeCode(Model):
    """A code that was sent to a number; both are kept as keyed hashes only.

    A row outlives its code by an hour, because the codes of the last hour are counted.
    `sealed` is the encrypted message until the worker has sent it.
    """

    __tablename__ = "one_time_codes"
    __table_args__ = (
        Index(None, "mobile_key", "purpose", "created_at"),
        Index("ix_one_time_codes_unsent", "created_at", postgresql_where="sealed IS NOT NULL"),
        CheckConstraint("guesses BETWEEN 0 AND 5", name="guesses_are_bounded"),
    )

    id: Mapped[RowId]
    mobile_key: Mapped[str] = mapped_column(String(64))
    purpose: Mapped[Purpose] = mapped_column(text_enum(Purpose, "purpose_is_known"))
    code_hash: Mapped[str] = mapped_column(String(64))
    sealed: Mapped[str | None] = mapped_column(Text)
    guesses: Mapped[int] = mapped_column(default=0, server_default="0")
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    used_at: Mapped[datetime | None]


class NumberThrottle(Model):
    """Attempts against a number, known or not, within a window that begins with the first attempt.

    Locking its row makes requests about the number's codes run one by one. Table and columns keep their original names.
    """

    __tablename__ = "number_guards"

    mobile_key: Mapped[str] = mapped_column(String(64), primary_key=True)
    wrong_codes: Mapped[int] = mapped_column(default=0)
    wrong_codes_since: Mapped[datetime]
    password_attempts: Mapped[int] = mapped_column("password_tries", default=0)
    password_attempts_since: Mapped[datetime] = mapped_column("password_tries_since")
    touched_at: Mapped[datetime] = mapped_column(index=True)


class AuthSession(Model):
    """One login. Its tokens work as long as the row exists and is not revoked."""

    __tablename__ = "auth_sessions"
    __table_args__ = (Index("ix_auth_sessions_revoked_at", "revoked_at", postgresql_where="revoked_at IS NOT NULL"),)

    id: Mapped[RowId]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    ip: Mapped[str | None] = mapped_column(String(45))
    user_agent: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime] = mapped_column(index=True)
    revoked_at: Mapped[datetime | None]
    current = False  # whether it is the request's own session; never stored, set only in a list of sessions


class ApiKey(Model):
    """A user's key for programs; it works until it expires or is revoked. `scope`: names, separated by spaces."""

    __tablename__ = "api_keys"
    __table_args__ = (
        Index("ix_api_keys_expires_at", "expires_at", postgresql_where="expires_at IS NOT NULL"),
        Index("ix_api_keys_revoked_at", "revoked_at", postgresql_where="revoked_at IS NOT NULL"),
    )

    id: Mapped[RowId]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    scope: Mapped[str] = mapped_column(String(100))
    prefix: Mapped[str] = mapped_column(String(16))
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    key = ""  # the key itself; never stored, set only in the object that was just made

    @property
    def scopes(self) -> list[Scope]:
        return [Scope(name) for name in self.scope.split()]


class EventType(enum.StrEnum):
    """What may happen to an account."""

    LOGIN = "login"
    LOGIN_NEW_DEVICE = "login_new_device"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - a name, not a password
    SESSION_REVOKED = "session_revoked"
    REFRESH_TOKEN_REUSED = "refresh_token_reused"  # noqa: S105 - a name, not a token
    CODES_LOCKED = "codes_locked"
    MOBILE_CHANGED = "mobile_changed"
    API_KEY_CREATED = "api_key_created"
    API_KEY_REVOKED = "api_key_revoked"


class SecurityEvent(Model):
    """Something that happened to an account, and from where."""

    __tablename__ = "security_events"
    __table_args__ = (Index(None, "user_id", "id"),)

    id: Mapped[RowId]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    type: Mapped[EventType] = mapped_column(text_enum(EventType, "type_is_known"))
    created_at: Mapped[datetime] = mapped_column(index=True)
    ip: Mapped[str | None] = mapped_column(String(45))
    user_agent: Mapped[str | None] = mapped_column(String(255))


class RefreshToken(Model):
    """One refresh token of a session. Exactly one of them is unused at any time: the current one.

    The token carries `id` as its claim `rid`. The table keeps its original name.
    """

    __tablename__ = "refresh_rotations"
    __table_args__ = (
        Index("uq_refresh_rotations_current", "session_id", unique=True, postgresql_where="used_at IS NULL"),
    )

    id: Mapped[RowId]
    session_id: Mapped[UUID] = mapped_column(ForeignKey("auth_sessions.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime]
    used_at: Mapped[datetime | None] = mapped_column(index=True)
