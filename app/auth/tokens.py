"""Sessions, and the pair of tokens that hangs on each."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import exists, select

from app.auth.models import AuthSession
from app.core.auth import encode_access_token, encode_refresh_token
from app.core.database import db
from app.core.settings import settings
from app.users.models import User
from app.users.profiles import Profile

MAX_USER_AGENT_CHARS = 255


@dataclass(frozen=True)
class Client:
    """Where a login comes from, as far as it can be told."""

    ip: str | None
    user_agent: str | None


@dataclass(frozen=True)
class Tokens:
    """A pair of tokens and whom they stand for. `expires_in`: seconds the access token lasts."""

    access_token: str
    refresh_token: str
    expires_in: int
    user: Profile
    token_type: str = "Bearer"  # noqa: S105 - a scheme, not a password


def open_session(user: User, tier: str, client: Client, now: datetime) -> Tokens:
    """Begin a session and issue its first tokens; the caller commits."""
    session = AuthSession(
        user_id=user.id,
        ip=client.ip,
        user_agent=client.user_agent[:MAX_USER_AGENT_CHARS] if client.user_agent else None,
        created_at=now,
        last_used_at=now,
    )
    db.session.add(session)
    db.session.flush()
    return Tokens(
        access_token=encode_access_token(user.id, session.id),
        refresh_token=encode_refresh_token(user.id, session.id),
        expires_in=int(settings().jwt_expires_in.total_seconds()),
        user=Profile.of(user, tier),
    )


def session_lives(session_id: UUID, user_id: UUID) -> bool:
    """Whether the session goes on and its user is there: one look-up by primary key."""
    lives = exists().where(
        AuthSession.id == session_id, AuthSession.user_id == user_id, AuthSession.revoked_at.is_(None)
    )
    return bool(db.session.scalar(select(lives)))
