"""The users table."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Model
from app.core.ids import new_id

E164 = r"\+[1-9][0-9]{6,14}"  # ITU-T E.164, 6.2.1: at most 15 digits, country code included


class User(Model):
    """A person, known by a mobile number. Until `verified_at` is set, only a claim to it, without a password."""

    __tablename__ = "users"
    __table_args__ = (CheckConstraint(f"mobile ~ '^{E164}$'", name="mobile_is_e164"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    mobile: Mapped[str] = mapped_column(String(16), unique=True)
    name: Mapped[str | None] = mapped_column(String(100))
    password_hash: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime]
    verified_at: Mapped[datetime | None]
