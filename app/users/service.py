"""The user behind a token, for the use cases of every feature."""

from uuid import UUID

from app.core.auth import TokenRevoked
from app.users.models import User
from app.users.queries import find_user, lock_user


def require_user(user_id: UUID) -> User:
    """The user as stored now. Raises TokenRevoked when the account is gone."""
    user = find_user(user_id)
    if user is None:
        raise TokenRevoked
    return user


def require_locked_user(user_id: UUID) -> User:
    """As `require_user`, the row held until the transaction ends: what one user does at once happens one by one."""
    user = lock_user(user_id)
    if user is None:
        raise TokenRevoked
    return user
