"""Use cases of a session that goes on: refresh, list, end."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select, update

from app.auth.models import AuthSession
from app.auth.tokens import Tokens, active_session, issue, lock_session, next_rotation
from app.billing.service import tier_of
from app.core.auth import TokenRevoked
from app.core.database import db
from app.core.errors import NotFound
from app.core.logs import log_event
from app.core.settings import settings
from app.core.transactions import transaction
from app.users.queries import find_user

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionView:
    """A session as its owner sees it. `current`: the request came with it."""

    id: UUID
    current: bool
    created_at: datetime
    last_used_at: datetime
    ip: str | None
    user_agent: str | None


def refresh(user_id: UUID, session_id: UUID, rotation_id: UUID, *, now: datetime) -> Tokens:
    """Trade a refresh token for new tokens; it works once, and for a few seconds more for parallel clients.

    Raises TokenRevoked: when it comes again later, its whole session ends, because one of two holders stole it.
    """
    with transaction():
        session = lock_session(session_id, user_id)
        user = find_user(user_id)
        successor = next_rotation(session, rotation_id, now)
        if user is not None and successor is not None:
            session.last_used_at = now
            return issue(user, tier_of(user_id, now), session.id, successor)
        session.revoked_at = now
    log_event(log, "refresh_token_reused", user_id=user_id, session_id=session_id)
    raise TokenRevoked


def list_sessions(user_id: UUID, current_id: UUID | None, *, now: datetime) -> list[SessionView]:
    """The user's sessions that go on, the latest used first. Past its refresh token's life a session is over."""
    lasting = (
        AuthSession.user_id == user_id,
        AuthSession.revoked_at.is_(None),
        AuthSession.last_used_at > now - session_lifetime(),
    )
    rows: Sequence[AuthSession] = db.session.scalars(
        select(AuthSession).where(*lasting).order_by(AuthSession.last_used_at.desc(), AuthSession.id.desc())
    ).all()
    return [
        SessionView(row.id, row.id == current_id, row.created_at, row.last_used_at, row.ip, row.user_agent)
        for row in rows
    ]


def end_session(user_id: UUID, session_id: UUID, *, now: datetime) -> None:
    """End one of the user's sessions: its tokens stop working. Raises NotFound."""
    with transaction():
        ended = update(AuthSession).where(*active_session(session_id, user_id)).values(revoked_at=now)
        if db.session.scalar(ended.returning(AuthSession.id)) is None:
            raise NotFound


def session_lifetime() -> timedelta:
    """How long a session can rest and still be taken up again."""
    return max(settings().refresh_expires_in, settings().jwt_expires_in)
