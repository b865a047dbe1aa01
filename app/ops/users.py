"""Use cases of an operator about one user."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select

from app.billing.models import ProGrant
from app.billing.queries import grants_of
from app.billing.service import tier_of
from app.chatrooms.models import Chatroom
from app.core.database import db
from app.users.models import User


@dataclass(frozen=True)
class UserSummary:
    """A user as an operator sees one; nothing of the conversations."""

    id: UUID
    mobile: str
    name: str | None
    tier: str
    chatrooms: int
    created_at: datetime
    verified_at: datetime | None


def summary(user: User, *, now: datetime) -> UserSummary:
    chatrooms = db.session.scalar(select(func.count()).select_from(Chatroom).where(Chatroom.user_id == user.id)) or 0
    return UserSummary(
        id=user.id,
        mobile=user.mobile,
        name=user.name,
        tier=tier_of(user.id, now),
        chatrooms=chatrooms,
        created_at=user.created_at,
        verified_at=user.verified_at,
    )


def grant_state(grant: ProGrant, now: datetime) -> str:
    """Whether a grant is active, in a word."""
    if grant.revoked_at is not None:
        return "revoked"
    return "expired" if grant.ends_at is not None and grant.ends_at <= now else "active"


def grants(user: User, *, now: datetime) -> list[dict[str, object]]:
    """The user's grants, the newest first."""
    return [
        {
            "state": grant_state(grant, now),
            "reason": grant.reason,
            "created_at": grant.created_at,
            "ends_at": grant.ends_at,
            "revoked_at": grant.revoked_at,
        }
        for grant in reversed(grants_of(user.id))
    ]
