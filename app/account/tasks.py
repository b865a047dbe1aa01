"""The worker's entry points: purging what belongs to deleted chatrooms and accounts, and deleting what has ended."""

import time
from uuid import UUID

from celery import shared_task
from sqlalchemy import ColumnElement, delete, select, update

from app.account.retention import delete_ended, deletion
from app.auth.models import ApiKey, AuthSession, RefreshToken, SecurityEvent
from app.chatrooms.list_cache import invalidate_list
from app.chatrooms.models import Chatroom, IdempotencyKey, messages
from app.chatrooms.service import PURGE
from app.core.clock import database_now, utc_now
from app.core.db import Model, db, locked_keys
from app.core.transactions import AT_ONCE_SECONDS, transaction
from app.generation.queries import IS_OPEN
from app.quota.ledger import disown_charges, owns_charges
from app.streaming import events
from app.users.models import User

BATCH = 1_000  # rows of a kind in a transaction: messages, with what refers to them, take some tenths of a second


@shared_task(name=PURGE)
def purge() -> None:
    """Delete for good what was deleted, for a moment, and queue itself again when there is more.

    It may run twice, also at once: each takes a chatroom or an account of its own.
    """
    until = time.monotonic() + AT_ONCE_SECONDS
    while purge_account() or purge_chatroom():
        if time.monotonic() > until:
            with transaction() as tx:
                tx.enqueue_after_commit(PURGE)
            return


@shared_task(name="account.delete_ended")
def delete_what_has_ended() -> None:
    """Delete rows of all features that are kept no longer. It may run twice, also at once."""
    delete_ended(now=database_now())  # by a clock that is wrong, everybody would be logged out


def purge_chatroom() -> bool:
    """Delete a batch of one deleted chatroom, the chatroom with the last; False when there is none to work at.

    Replies that are not finished go first, then the newest messages; `turns` says how far it has come. Charges stay.
    """
    with transaction() as tx:
        disowned = select(Chatroom).where(Chatroom.user_id.is_(None)).order_by(Chatroom.updated_at).limit(1)
        room = db.session.scalar(disowned.with_for_update(skip_locked=True))
        if room is None:
            return False
        some = select(messages.c.id).where(messages.c.chatroom_id == room.id, IS_OPEN)
        unfinished = delete(messages).where(messages.c.id.in_(some.limit(BATCH)))
        rows = db.session.execute(unfinished.returning(messages.c.id, messages.c.attempt)).all()
        under_way = dict(map(tuple, rows))
        gone = list(under_way)
        room.updated_at = utc_now()
        if len(under_way) < BATCH:
            room.turns = max(0, room.turns - BATCH)
            newest = delete(messages).where(messages.c.chatroom_id == room.id, messages.c.position >= room.turns)
            gone += db.session.scalars(newest.returning(messages.c.id)).all()
            if room.turns == 0:
                db.session.execute(delete(Chatroom).where(Chatroom.id == room.id))
        if gone:
            tx.after_commit(lambda: events.purge(gone, under_way=under_way))
    return True


def purge_account() -> bool:
    """Delete a batch of one deleted account, the user with the last; False when there is none to work at.

    Its chatrooms lose their owner, and with that they are deleted chatrooms like others.
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
            disown_charges(user.id, at_most=BATCH),
            delete_some(RefreshToken, RefreshToken.session_id.in_(sessions)),
            delete_some(SecurityEvent, SecurityEvent.user_id == user.id),
            delete_some(ApiKey, ApiKey.user_id == user.id),
        ]
        if any(counts):
            return True
        # Only here is a purge of a chatroom waited for, and this transaction holds nothing that it needs.
        if delete_some(AuthSession, AuthSession.user_id == user.id) < BATCH and not owns_charges(user.id):
            user_id = user.id
            db.session.execute(delete(User).where(User.id == user_id))
            tx.after_commit(lambda: invalidate_list(user_id))  # a page may have been stored after the first time
    return True


def disown_chatrooms(user_id: UUID) -> int:
    """Take up to BATCH chatrooms from the user, which deletes them; how many."""
    some = select(Chatroom.id).where(Chatroom.user_id == user_id).limit(BATCH)
    disowned = update(Chatroom).where(Chatroom.id.in_(some)).values(user_id=None, updated_at=utc_now())
    return len(db.session.scalars(disowned.returning(Chatroom.id)).all())


def delete_some(model: type[Model], condition: ColumnElement[bool]) -> int:
    """Delete up to BATCH rows that nobody else holds; how many."""
    some = select(*model.__mapper__.primary_key).where(condition).limit(BATCH)
    return len(db.session.execute(deletion(model, locked_keys(some))).all())
