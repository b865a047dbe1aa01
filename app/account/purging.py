"""Deletes for good what belongs to accounts that were deleted, a batch at a time."""

from sqlalchemy import ColumnElement, delete, select, tuple_

from app.auth.models import AuthSession, Rotation
from app.chatrooms.list_cache import forget_list
from app.chatrooms.queries import disown_chatrooms
from app.core.clock import utc_now
from app.core.database import db
from app.core.transactions import transaction
from app.messages.models import IdempotencyKey
from app.users.models import User

BATCH = 1_000  # rows of a kind in a transaction


def purge_account() -> bool:
    """Delete a batch of one deleted account, the user with the last; False when there is none to work at.

    Its chatrooms lose their owner, and with that they are deleted chatrooms like others. Safe to run twice at once:
    each takes an account of its own.
    """
    with transaction() as current:
        deleted = select(User).where(User.mobile.is_(None)).order_by(User.id).limit(1)
        user = db.session.scalar(deleted.with_for_update(skip_locked=True))
        if user is None:
            return False
        sessions = select(AuthSession.id).where(AuthSession.user_id == user.id)
        counts = [
            disown_chatrooms(user.id, utc_now(), at_most=BATCH),
            delete_some(IdempotencyKey, IdempotencyKey.user_id == user.id),
            delete_some(Rotation, Rotation.session_id.in_(sessions)),
        ]
        if max(counts) < BATCH and delete_some(AuthSession, AuthSession.user_id == user.id) < BATCH:
            user_id = user.id
            db.session.execute(delete(User).where(User.id == user_id))
            current.after_commit(lambda: forget_list(user_id))  # a page may have been stored after the first time
    return True


def delete_some(model: type[IdempotencyKey | Rotation | AuthSession], condition: ColumnElement[bool]) -> int:
    """Delete up to BATCH rows; how many."""
    key = model.__mapper__.primary_key
    some = select(*key).where(condition).limit(BATCH)
    return int(db.session.execute(delete(model).where(tuple_(*key).in_(some))).rowcount)  # type: ignore[attr-defined]
