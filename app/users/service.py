"""Find, lock and write users, for the use cases of every feature."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.dialects.postgresql import insert
from uuid_utils.compat import uuid7

from app.core.auth import TokenRevoked
from app.core.db import db
from app.users.models import User

LOCK = select(User).where(User.id == bindparam("user"), User.mobile.is_not(None)).with_for_update(key_share=True)


def find_user(user_id: UUID) -> User | None:
    """The user, unless the account is deleted."""
    user = db.session.get(User, user_id)
    return user if user is not None and user.mobile else None


def find_user_by_mobile(mobile: str) -> User | None:
    """The user with a number in E.164, verified or not."""
    return db.session.scalar(select(User).where(User.mobile == mobile))


def lock_user(user_id: UUID) -> User | None:
    """The user's row, locked until the transaction ends, so that one user's requests run one by one."""
    return db.session.scalar(LOCK, {"user": user_id}, execution_options={"populate_existing": True})


def lock_user_by_mobile(mobile: str) -> User | None:
    """As `lock_user`. While the row is locked, no other signup replaces an unverified user."""
    statement = select(User).where(User.mobile == mobile).with_for_update(key_share=True)
    return db.session.scalar(statement, execution_options={"populate_existing": True})


def give_number(user: User, mobile: str, now: datetime) -> bool:
    """Give a locked user another number, in place of a user who never verified it. Returns False if it is verified."""
    claim = replace_unverified(mobile, name=None, now=now)
    if claim is None:
        return False
    db.session.execute(delete(User).where(User.id == claim.id))
    user.mobile = mobile
    db.session.flush()
    return True


def mark_deleted(user: User) -> None:
    """Clear the row's personal data: no query finds it any more, and the number is free at once."""
    statement = update(User).where(User.id == user.id)
    db.session.execute(statement.values(mobile=None, name=None, password_hash=None))


def replace_unverified(mobile: str, *, name: str | None, now: datetime) -> User | None:
    """Insert a user in place of one who never verified the number. Returns None if the number is verified.

    The earlier user's id is gone then. No row refers to it: to own anything takes a token, which an unverified user
    cannot have.
    """
    values = {"id": uuid7(), "name": name, "created_at": now}
    statement = (
        insert(User)
        .values(mobile=mobile, **values)
        .on_conflict_do_update(index_elements=[User.mobile], set_=values, where=User.verified_at.is_(None))
        .returning(User)
    )
    return db.session.scalar(statement, execution_options={"populate_existing": True})


def require_user(user_id: UUID) -> User:
    """The user as stored now. Raises TokenRevoked when the account is gone."""
    user = find_user(user_id)
    if user is None:
        raise TokenRevoked
    return user


def require_locked_user(user_id: UUID) -> User:
    """As `require_user`, with the row locked as by `lock_user`. Raises TokenRevoked."""
    user = lock_user(user_id)
    if user is None:
        raise TokenRevoked
    return user
