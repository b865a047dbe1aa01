"""Use cases around one's own account."""

from datetime import datetime
from uuid import UUID

from app.auth.sessions import revoke_keys, revoke_sessions
from app.billing.checkout import close_account, disown_customers
from app.billing.tier import tier_of
from app.chatrooms.list_cache import invalidate_list
from app.chatrooms.service import PURGE
from app.core.errors import ServiceUnavailable
from app.core.transactions import transaction
from app.users.models import User
from app.users.service import mark_deleted, require_locked_user, require_user

CLOSING_ROUNDS = 3  # a user who keeps opening payment pages has to try again


def profile(user_id: UUID, *, now: datetime) -> User:
    """The user as stored now, with the tier. Raises TokenRevoked when the account is gone."""
    user = require_user(user_id)
    user.tier = tier_of(user_id, now)
    return user


def rename(user_id: UUID, name: str | None, *, now: datetime) -> User:
    """Change the user's name. Raises TokenRevoked when the account is gone."""
    with transaction():
        require_locked_user(user_id).name = name
    return profile(user_id, now=now)


def delete_account(user_id: UUID, *, now: datetime) -> None:
    """Delete the account at once: every token stops working, and no route shows its data. A task deletes the rows.

    Subscriptions are canceled first, so that nobody is charged for an account that is gone. The day's charges stay,
    under the number's keyed hash, and the number can be signed up again.
    Raises TokenRevoked when the account is gone, ServiceUnavailable, and what `close_account` raises; then nothing was
    deleted.
    """
    for _ in range(CLOSING_ROUNDS):
        close_account(user_id, now=now)
        with transaction() as tx:
            user = require_locked_user(user_id)
            if not disown_customers(user_id):  # a payment page was opened meanwhile
                continue
            revoke_sessions(tx, user_id, now)
            revoke_keys(tx, user_id, now)
            mark_deleted(user)
            tx.after_commit(lambda: invalidate_list(user_id))
            tx.enqueue_after_commit(PURGE)
            return
    raise ServiceUnavailable
