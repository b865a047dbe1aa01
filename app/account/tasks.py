"""What workers delete for good: the rows of deleted chatrooms and accounts, and rows that have ended.

A table in `delete_ended` says how long ended rows are kept.
"""

import logging
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from celery import shared_task
from sqlalchemy import ColumnElement, Select, delete, exists, select, tuple_, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.dml import ReturningDelete

from app.auth import events as security_events
from app.auth import otp
from app.auth.models import ApiKey, AuthSession, NumberThrottle, OneTimeCode, RefreshToken, SecurityEvent
from app.auth.sessions import session_lifetime
from app.auth.throttles import PASSWORD_WINDOW, WRONG_CODES_WINDOW
from app.billing.models import StripeEvent
from app.billing.webhook import EVENT_RETENTION
from app.chatrooms.list_cache import invalidate_list
from app.chatrooms.models import Chatroom, IdempotencyKey, messages
from app.chatrooms.service import KEY_LIFETIME, PURGE
from app.core.clock import database_now, utc_now
from app.core.db import DATABASE_UNAVAILABLE, Model, db, locked_keys, log_database_error
from app.core.transactions import transaction
from app.generation.queueing import IS_OPEN
from app.quota.ledger import disown_charges, owns_charges
from app.streaming import events
from app.users.models import User

RUN_SECONDS = 2.0  # for which a run keeps a worker's thread; other tasks get it between two runs
BATCH = 1_000  # rows of a kind in a transaction: messages and the rows that refer to them take some tenths of a second
ENDED_BATCH, TOKEN_BATCH = 500, 5_000
REVOKED_RETENTION = timedelta(days=1)
UNVERIFIED_RETENTION = timedelta(days=1)  # a signup whose number nobody has verified

log = logging.getLogger(__name__)


@shared_task(name=PURGE)
def purge() -> None:
    """Purge deleted accounts and chatrooms for RUN_SECONDS, then queue itself again if there is more.

    Safe to run twice at once: each run takes a different account or chatroom.
    """
    until = time.monotonic() + RUN_SECONDS
    while purge_account() or purge_chatroom():
        if time.monotonic() > until:
            with transaction() as tx:
                tx.enqueue_after_commit(PURGE)
            return


@shared_task(name="account.delete_ended")
def sweep_ended() -> None:
    """Delete the rows of all features that are kept no longer. Safe to run twice at once."""
    delete_ended(now=database_now())  # with a worker's wrong clock, everybody would be logged out


def purge_chatroom() -> bool:
    """Delete a batch of a deleted chatroom's messages, and the chatroom with the last. Returns False if none is free.

    Unfinished replies go first, then the newest messages; `turns` says how far the purge has come. Charges stay.
    """
    with transaction() as tx:
        disowned = select(Chatroom).where(Chatroom.user_id.is_(None)).order_by(Chatroom.updated_at).limit(1)
        room = db.session.scalar(disowned.with_for_update(skip_locked=True))
        if room is None:
            return False
        some = select(messages.c.id).where(messages.c.chatroom_id == room.id, IS_OPEN)
        unfinished = delete(messages).where(messages.c.id.in_(some.limit(BATCH)))
        rows = db.session.execute(unfinished.returning(messages.c.id, messages.c.attempt)).all()
        unfinished_attempts = dict(map(tuple, rows))
        deleted_ids = list(unfinished_attempts)
        room.updated_at = utc_now()
        if len(unfinished_attempts) < BATCH:
            room.turns = max(0, room.turns - BATCH)
            newest = delete(messages).where(messages.c.chatroom_id == room.id, messages.c.position >= room.turns)
            deleted_ids += db.session.scalars(newest.returning(messages.c.id)).all()
            if room.turns == 0:
                db.session.execute(delete(Chatroom).where(Chatroom.id == room.id))
        if deleted_ids:
            tx.after_commit(lambda: events.purge(deleted_ids, unfinished_attempts=unfinished_attempts))
    return True


def purge_account() -> bool:
    """Delete a batch of a deleted account's rows, and the user with the last. Returns False if no account is free.

    Its chatrooms lose their owner, which makes them deleted chatrooms like any other.
    """
    with transaction() as tx:
        deleted = select(User).where(User.mobile.is_(None)).order_by(User.id).limit(1)
        user = db.session.scalar(deleted.with_for_update(skip_locked=True))
        if user is None:
            return False
        sessions = select(AuthSession.id).where(AuthSession.user_id == user.id)
        counts = [
            disown_chatrooms(user.id),
            delete_some(IdempotencyKey, IdempotencyKey.user_id == user.id),
            disown_charges(user.id, limit=BATCH),
            delete_some(RefreshToken, RefreshToken.session_id.in_(sessions)),
            delete_some(SecurityEvent, SecurityEvent.user_id == user.id),
            delete_some(ApiKey, ApiKey.user_id == user.id),
        ]
        if any(counts):
            return True
        # Only from here on may this wait for the purge of a chatroom; it holds nothing that the purge needs.
        if delete_some(AuthSession, AuthSession.user_id == user.id) < BATCH and not owns_charges(user.id):
            user_id = user.id
            db.session.execute(delete(User).where(User.id == user_id))
            tx.after_commit(lambda: invalidate_list(user_id))  # a page may have been cached since the deletion
    return True


def disown_chatrooms(user_id: UUID) -> int:
    """Take up to BATCH chatrooms from the user, which deletes them. Returns how many."""
    some = select(Chatroom.id).where(Chatroom.user_id == user_id).limit(BATCH)
    disowned = update(Chatroom).where(Chatroom.id.in_(some)).values(user_id=None, updated_at=utc_now())
    return len(db.session.scalars(disowned.returning(Chatroom.id)).all())


def delete_some(model: type[Model], condition: ColumnElement[bool]) -> int:
    """Delete up to BATCH rows that nobody else has locked. Returns how many."""
    some = select(*model.__mapper__.primary_key).where(condition).limit(BATCH)
    return len(db.session.execute(deletion(model, locked_keys(some))).all())


def delete_ended(*, now: datetime) -> dict[str, int]:
    """Delete the rows of all features that are kept no longer. Returns how many of each kind."""
    # Each column has an index, which leads to the oldest rows without reading the others.
    ended: list[tuple[str, InstrumentedAttribute[Any], datetime]] = [
        ("codes", OneTimeCode.expires_at, now - otp.COUNT_WINDOW),
        ("throttles", NumberThrottle.touched_at, now - max(WRONG_CODES_WINDOW, PASSWORD_WINDOW)),
        ("revoked sessions", AuthSession.revoked_at, now - REVOKED_RETENTION),
        ("expired sessions", AuthSession.last_used_at, now - session_lifetime()),
        ("revoked API keys", ApiKey.revoked_at, now - REVOKED_RETENTION),
        ("expired API keys", ApiKey.expires_at, now - REVOKED_RETENTION),
        ("refresh tokens", RefreshToken.used_at, now - session_lifetime()),
        ("security events", SecurityEvent.created_at, now - security_events.RETENTION),
        ("signups", User.created_at, now - UNVERIFIED_RETENTION),
        ("idempotency keys", IdempotencyKey.created_at, now - KEY_LIFETIME),
        ("Stripe events", StripeEvent.received_at, now - EVENT_RETENTION),
    ]
    batches: dict[str, ReturningDelete[Any]] = {}
    for name, column, before in ended:
        model = column.class_
        key = model.__mapper__.primary_key
        old = select(*key).where(column < before)
        if model is User:
            old = old.where(User.verified_at.is_(None))
        old = old.order_by(column).limit(ENDED_BATCH)
        if model is AuthSession:  # 500 sessions may have millions of tokens, too many for one statement's time
            tokens = select(RefreshToken.id).where(RefreshToken.session_id.in_(old)).limit(TOKEN_BATCH)
            batches[f"refresh tokens of {name}"] = deletion(RefreshToken, tokens)
            empty = ~exists().where(RefreshToken.session_id == AuthSession.id)
            old = select(AuthSession.id).where(AuthSession.id.in_(old), empty)
        batches[name] = deletion(model, locked_keys(old))
    return delete_in_batches(batches)


def delete_in_batches(batches: Mapping[str, ReturningDelete[Any]]) -> dict[str, int]:
    """Delete rows of several kinds, a batch of each in rotation. Returns how many of each.

    Ends when none are left, or when RUN_SECONDS are over and each kind has had a batch: the next sweep goes on.
    batches: each deletes and returns as many rows as one transaction should.
    """
    until, counts, remaining = time.monotonic() + RUN_SECONDS, dict.fromkeys(batches, 0), dict(batches)
    while True:
        for kind, batch in list(remaining.items()):
            try:
                with transaction():
                    deleted = len(db.session.scalars(batch).all())
            except DATABASE_UNAVAILABLE:
                raise
            except OperationalError as error:  # a lock or a time-out; it must not hold up the other kinds
                log_database_error(log, "the next sweep will retry these rows", error)
                deleted = 0
            counts[kind] += deleted
            if not deleted:
                del remaining[kind]
        if not remaining or time.monotonic() > until:
            return counts


def deletion(model: Any, keys: Select[Any]) -> ReturningDelete[Any]:
    """A statement that deletes the rows with these keys, and returns the keys."""
    key = model.__mapper__.primary_key
    return delete(model).where(tuple_(*key).in_(keys)).returning(*key)
