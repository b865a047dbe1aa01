"""The users table."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Model, RowId

E164 = r"\+[1-9][0-9]{6,14}"  # ITU-T E.164, 6.2.1: at most 15 digits, country code included


class User(Model):
    """A person, known by a mobile number. Until `verified_at` is set, the row is only a claim, without a password."""

    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint(f"mobile ~ '^{E164}$'", name="mobile_is_e164"),
        Index("ix_users_unverified", "created_at", postgresql_where="verified_at IS NULL"),
        Index("ix_users_deleted", "id", postgresql_where="mobile IS NULL"),
    )

    id: Mapped[RowId]
    mobile: Mapped[str] = mapped_column(String(16), unique=True, nullable=True)  # null: deleted, and no query finds it
    name: Mapped[str | None] = mapped_column(String(100))
    password_hash: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime]
    verified_at: Mapped[datetime | None]
    tier = ""  # as of the request; never stored, set only in an object that is shown

    @property
    def has_password(self) -> bool:
        return self.password_hash is not None
