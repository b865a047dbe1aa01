"""Sessions: opening, refreshing, listing and ending them. API keys: the sessions of programs, with scopes.

A key is 256 random bits after `gbk_`, a prefix that secret scanners can look for. It is shown once, and stored as a
hash. An active key is remembered like a session (`app.core.admission`), so most requests with it ask Redis alone.
"""

import hashlib
import logging
import math
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, or_, select, update

from app.auth import events
from app.auth.errors import TooManyApiKeys
from app.auth.models import ApiKey, AuthSession, EventType, RefreshToken
from app.billing.tier import tier_of
from app.core import settings
from app.core.admission import forget_sessions
from app.core.auth import API_KEY_PREFIX, Scope, TokenRevoked, encode_tokens
from app.core.clock import database_now
from app.core.db import db
from app.core.errors import NotFound
from app.core.http import Client
from app.core.logging import log_event
from app.core.transactions import Transaction, release_connection, transaction
from app.users.models import User
from app.users.service import require_locked_user, require_user

REUSE_GRACE = timedelta(seconds=10)  # for clients that refresh in parallel; public API
MAX_SESSIONS = 100  # of a user: few enough to show in one list, and to end with one statement
# A former primary is read-only: it may still answer reads.
IS_READ_ONLY = (func.current_setting("transaction_read_only") == "on").label("is_read_only")
MAX_KEYS = 10  # of a user
SHOWN_CHARS = 12  # the beginning of a key, by which its owner recognizes it
TOUCH_EVERY = timedelta(minutes=5)  # `last_used_at` is written at most this often, so it is only this exact

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokens:
    """A pair of tokens and their user. `expires_in`: seconds the access token lasts."""

    access_token: str
    refresh_token: str
    expires_in: int
    user: User
    token_type: str = "Bearer"  # noqa: S105 - a scheme, not a password


def open_session(tx: Transaction, user: User, client: Client, now: datetime) -> Tokens:
    """Begin a session for a user whom the caller has locked, and issue its first tokens.

    If the user then has too many, those used longest ago end.
    """
    active = (AuthSession.user_id == user.id, AuthSession.revoked_at.is_(None))
    latest_first = select(AuthSession.id).where(*active).order_by(AuthSession.last_used_at.desc())
    too_many = latest_first.offset(MAX_SESSIONS - 1)
    revoke(tx, AuthSession, AuthSession.id.in_(too_many), now=now)
    session = AuthSession(user_id=user.id, created_at=now, last_used_at=now, **asdict(client))
    db.session.add(session)
    db.session.flush()
    return issue_tokens(user, session.id, add_refresh_token(session.id, now), now)


def refresh(user_id: UUID, session_id: UUID, jti: UUID, client: Client, *, now: datetime) -> Tokens:
    """Exchange a refresh token for new tokens. It works once, and for REUSE_GRACE after that for parallel clients.

    If it is used again later, its whole session ends, because one of its two holders stole it. Raises TokenRevoked.
    """
    with transaction() as tx:
        session = lock_session(session_id, user_id)
        user = require_user(user_id)
        successor = next_refresh_token(session, jti, database_now())  # two machines' clocks may differ
        if successor is not None:
            session.last_used_at = now
            return issue_tokens(user, session.id, successor, now)
        session.revoked_at = now
        events.record(user_id, EventType.REFRESH_TOKEN_REUSED, client, now)
        tx.after_commit(lambda: forget_sessions([session_id]))
    log_event(log, "refresh_token_reused", user_id=user_id, session_id=session_id)
    raise TokenRevoked


def list_sessions(user_id: UUID, current_id: UUID, *, now: datetime) -> Sequence[AuthSession]:
    """The user's active sessions, the latest used first, without those whose refresh token has expired.

    `current` is set in the session `current_id`.
    """
    active = (
        AuthSession.user_id == user_id,
        AuthSession.revoked_at.is_(None),
        AuthSession.last_used_at > now - session_lifetime(),
    )
    statement = select(AuthSession).where(*active)
    sessions = db.session.scalars(statement.order_by(AuthSession.last_used_at.desc(), AuthSession.id.desc())).all()
    for session in sessions:
        session.current = session.id == current_id
    return sessions


def end_session(user_id: UUID, session_id: UUID, *, revoked_by: Client | None = None, now: datetime) -> None:
    """End one of the user's sessions: its tokens stop working.

    revoked_by: who ends it, for the security event; None at a logout, which records none.
    Raises NotFound if the user has no such active session, except at a logout.
    """
    with transaction() as tx:
        ended = update(AuthSession).where(*active_session(session_id, user_id)).values(revoked_at=now)
        was_active = db.session.scalar(ended.returning(AuthSession.id)) is not None
        if revoked_by is not None:
            if not was_active:
                raise NotFound
            events.record(user_id, EventType.SESSION_REVOKED, revoked_by, now)
        tx.after_commit(lambda: forget_sessions([session_id]))


def revoke_sessions(tx: Transaction, user_id: UUID, now: datetime) -> None:
    """End every session of the user, who is locked by the caller."""
    revoke(tx, AuthSession, AuthSession.user_id == user_id, AuthSession.revoked_at.is_(None), now=now)


def revoke(
    tx: Transaction, model: type[AuthSession | ApiKey], *which: ColumnElement[bool], now: datetime
) -> Sequence[UUID]:
    """End sessions or keys in PostgreSQL, and tell Redis after the commit. Returns their ids."""
    ended = update(model).where(*which).values(revoked_at=now).returning(model.id)
    ids = db.session.scalars(ended, execution_options={"synchronize_session": False}).all()
    if ids:
        tx.after_commit(lambda: forget_sessions(ids))
    return ids


def is_session_active(session_id: UUID, user_id: UUID, now: datetime) -> bool:
    """Whether the session is not revoked; those of a deleted user are. Records its use as `note_use` does."""
    return note_use(AuthSession, *active_session(session_id, user_id), now=now)


def note_use(model: type[AuthSession | ApiKey], *active: ColumnElement[bool], now: datetime) -> bool:
    """Whether there is such a row, by one query. Its use is recorded at most once every TOUCH_EVERY.

    active: the conditions of one row, by primary key. Holds no connection afterwards: what follows may wait for Redis.
    """
    row = db.session.execute(select(model.last_used_at, IS_READ_ONLY).where(*active)).one_or_none()
    release_connection()
    if row is None:
        return False
    if not row.is_read_only and (row.last_used_at is None or now - row.last_used_at > TOUCH_EVERY):
        with transaction():
            db.session.execute(update(model).where(*active).values(last_used_at=now))
    return True


def session_lifetime() -> timedelta:
    """How long a session can stay idle and still be refreshed or used."""
    return max(settings().refresh_expires_in, settings().jwt_expires_in)


def issue_tokens(user: User, session_id: UUID, jti: UUID, now: datetime) -> Tokens:
    """The pair of tokens of a session. jti: the id of its current refresh token."""
    user.tier = tier_of(user.id, now)
    expires_in = int(settings().jwt_expires_in.total_seconds())
    return Tokens(*encode_tokens(user.id, session_id, jti), expires_in, user)


def next_refresh_token(session: AuthSession, jti: UUID, now: datetime) -> UUID | None:
    """The id of the refresh token that replaces this one; None if this one was used longer than REUSE_GRACE ago.

    Also None if it is not one of the session's. session: locked by the caller. Within REUSE_GRACE of its use a token
    still gets the current one, so that parallel clients end up with the same token, and a stolen copy is noticed as
    soon as both holders go on using it.
    """
    presented = db.session.get(RefreshToken, jti)
    if presented is None or presented.session_id != session.id:
        return None
    if presented.used_at is None:
        presented.used_at = now
        db.session.flush()
        return add_refresh_token(session.id, now)
    if now - presented.used_at > REUSE_GRACE:
        return None
    current = select(RefreshToken.id).where(RefreshToken.session_id == session.id, RefreshToken.used_at.is_(None))
    return db.session.scalar(current)


def add_refresh_token(session_id: UUID, now: datetime) -> UUID:
    """Insert a session's next refresh token, once the one before is used. Returns its id."""
    token = RefreshToken(session_id=session_id, created_at=now)
    db.session.add(token)
    db.session.flush()
    return token.id


def lock_session(session_id: UUID, user_id: UUID) -> AuthSession:
    """The user's active session, locked until the transaction ends. Raises TokenRevoked."""
    statement = select(AuthSession).where(*active_session(session_id, user_id)).with_for_update()
    session: AuthSession | None = db.session.scalar(statement, execution_options={"populate_existing": True})
    if session is None:
        raise TokenRevoked
    return session


def active_session(session_id: UUID, user_id: UUID) -> tuple[ColumnElement[bool], ...]:
    """The conditions of one of the user's sessions that is not revoked."""
    return (AuthSession.id == session_id, AuthSession.user_id == user_id, AuthSession.revoked_at.is_(None))


def create_key(
    user_id: UUID,
    session_id: UUID,
    *,
    name: str,
    scopes: Iterable[Scope],
    expires_in_days: int | None,
    client: Client,
    now: datetime,
) -> ApiKey:
    """Make an API key. Only the row returned here holds the key itself, as `key`. expires_in_days: None for never.

    session_id: the session of the request. If it has ended, no key is made: otherwise a key could outlive a change of
    the password that ends all keys. Raises TokenRevoked, TooManyApiKeys.
    """
    key = API_KEY_PREFIX + secrets.token_urlsafe(32)  # bytes
    row = ApiKey(
        user_id=user_id,
        name=name,
        scope=" ".join(sorted(set(scopes))),
        prefix=key[:SHOWN_CHARS],
        key_hash=hash_key(key),
        created_at=now,
        expires_at=None if expires_in_days is None else now + timedelta(days=expires_in_days),
    )
    with transaction():
        require_locked_user(user_id)
        lock_session(session_id, user_id)
        if len(list_keys(user_id, now=now)) >= MAX_KEYS:
            raise TooManyApiKeys
        db.session.add(row)
        events.record(user_id, EventType.API_KEY_CREATED, client, now)
    row.key = key
    return row


def list_keys(user_id: UUID, *, now: datetime) -> list[ApiKey]:
    """The user's active keys, the newest first."""
    statement = select(ApiKey).where(ApiKey.user_id == user_id, *active_key(now))
    return list(db.session.scalars(statement.order_by(ApiKey.id.desc())))


def revoke_key(user_id: UUID, key_id: UUID, client: Client, *, now: datetime) -> None:
    """End one of the user's keys. Raises NotFound."""
    with transaction() as tx:
        if not revoke(tx, ApiKey, ApiKey.id == key_id, ApiKey.user_id == user_id, *active_key(now), now=now):
            raise NotFound
        events.record(user_id, EventType.API_KEY_REVOKED, client, now)


def revoke_keys(tx: Transaction, user_id: UUID, now: datetime, *, revoked_by: Client | None = None) -> None:
    """End all of the user's keys. revoked_by: the client to record in a security event for each; None records none."""
    ended = revoke(tx, ApiKey, ApiKey.user_id == user_id, *active_key(now), now=now)
    if revoked_by is not None:
        for _ in ended:
            events.record(user_id, EventType.API_KEY_REVOKED, revoked_by, now)


def find_key(key: str) -> dict[str, Any] | None:
    """Return what never changes about a key, as claims of a token (`app.core.auth`), or None if the key is unknown.

    The key may have ended. Holds no connection afterwards.
    """
    row = db.session.scalar(select(ApiKey).where(ApiKey.key_hash == hash_key(key)))
    release_connection()
    if row is None:
        return None
    expires = row.expires_at.timestamp() if row.expires_at else math.inf
    return {"sub": str(row.user_id), "sid": str(row.id), "exp": expires, "scopes": frozenset(row.scopes)}


def is_key_active(key_id: UUID, user_id: UUID, now: datetime) -> bool:
    """Whether the key is active. Records its use as `note_use` does."""
    return note_use(ApiKey, ApiKey.id == key_id, ApiKey.user_id == user_id, *active_key(now), now=now)


def active_key(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """The conditions of a key that has not ended."""
    return (ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now))


def hash_key(key: str) -> str:
    """The stored form. No key can be guessed, so it needs no secret, and outlives a change of the service's secrets."""
    return hashlib.sha256(key.encode()).hexdigest()
