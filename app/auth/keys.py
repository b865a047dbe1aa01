"""API keys: a program acts for a user within a key's scopes, without a new one-time code every day.

A key is 256 random bits after `gbk_`, a prefix that secret scanners can look for. It is shown once, and stored as a
hash. An active key is remembered like a session (`app.core.admission`), so most requests with it ask Redis alone.
"""

import hashlib
import math
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, or_, select

from app.auth import events
from app.auth.errors import TooManyApiKeys
from app.auth.models import ApiKey, EventType
from app.auth.sessions import lock_session, note_use, revoke
from app.core.auth import API_KEY_PREFIX, Scope
from app.core.db import db
from app.core.errors import NotFound
from app.core.http import Client
from app.core.transactions import Transaction, release_connection, transaction
from app.users.service import require_locked_user

MAX_KEYS = 10
SHOWN_CHARS = 12  # the beginning of a key, by which its owner recognizes it


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
