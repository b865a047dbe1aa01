"""Finding and writing users."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert

from app.core.database import db
from app.core.ids import new_id
from app.users.models import User


def find_user(user_id: UUID) -> User | None:
    user = db.session.get(User, user_id)
    return user if user is not None and user.mobile else None


def find_user_by_mobile(mobile: str) -> User | None:
    return db.session.scalar(select(User).where(User.mobile == mobile))


def lock_user(user_id: UUID) -> User | None:
    """The user's row, held until the transaction ends: what one user does at once happens one by one."""
    statement = select(User).where(User.id == user_id, User.mobile.is_not(None)).with_for_update(key_share=True)
    return db.session.scalar(statement, execution_options={"populate_existing": True})


def lock_user_by_mobile(mobile: str) -> User | None:
    """As `lock_user`; while it is held, no other signup replaces an unverified one."""
    statement = select(User).where(User.mobile == mobile).with_for_update()
    return db.session.scalar(statement, execution_options={"populate_existing": True})


def mark_deleted(user: User) -> None:
    """Take all that tells of a person from the row: nobody finds it any more, and the number is free at once."""
    statement = update(User).where(User.id == user.id)
    db.session.execute(statement.values(mobile=None, name=None, password_hash=None))


def replace_unverified(mobile: str, *, name: str | None, now: datetime) -> User | None:
    """Insert a user, in place of an earlier one who never verified the number; None where one did.

    The earlier one's id goes, so no row may refer to an unverified user: what belongs to one takes a token, which
    only a verified one has.
    """
    fresh = {"id": new_id(), "name": name, "created_at": now}
    statement = (
        insert(User)
        .values(mobile=mobile, **fresh)
        .on_conflict_do_update(index_elements=[User.mobile], set_=fresh, where=User.verified_at.is_(None))
        .returning(User)
    )
    return db.session.scalar(statement, execution_options={"populate_existing": True})
