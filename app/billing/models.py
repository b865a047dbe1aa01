"""The tables behind a user's tier."""

import enum
from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import db
from app.core.ids import new_id


class Tier(enum.StrEnum):
    """What a user may do in a day."""

    BASIC = "basic"
    PRO = "pro"


class ProGrant(db.Model):  # type: ignore[name-defined,misc]
    """Pro given by hand, apart from anything that Stripe says."""

    __tablename__ = "pro_grants"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    reason: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime]
    ends_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
