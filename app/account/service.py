"""Use cases around one's own account."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from app.billing.service import close_account, is_closed, tier_of
from app.chatrooms.list_cache import invalidate_list
from app.core.database import db
from app.core.errors import ServiceUnavailable
from app.core.transactions import transaction
from app.users.profiles import Profile
from app.users.queries import delete_user
from app.users.service import require_locked_user, require_user

CLOSING_ROUNDS = 3  # who goes on opening payment pages is told to try again
DELETION_TIMEOUT_MS = 30_000  # thousands of messages go in one statement, which no other may be as slow as


def profile(user_id: UUID, *, now: datetime) -> Profile:
    """The user as stored now. Raises TokenRevoked when the account is gone."""
    return Profile.of(require_user(user_id), tier_of(user_id, now))


def rename(user_id: UUID, name: str | None, *, now: datetime) -> Profile:
    """Change what to call the user. Raises TokenRevoked when the account is gone."""
    with transaction():
        user = require_locked_user(user_id)
        user.name = name
    return Profile.of(user, tier_of(user_id, now))


def delete_account(user_id: UUID, *, now: datetime) -> None:
    """Delete the user with all chatrooms, messages and sessions; every token stops working.

    What the user pays for ends first, so that nobody is charged for an account that is gone. The day's quota stays
    spent, under the number's keyed hash, and the number can be signed up again.
    Raises TokenRevoked when the account is gone, ServiceUnavailable, and what `close_account` raises; then nothing was
    deleted.
    """
    for _ in range(CLOSING_ROUNDS):
        close_account(user_id, now=now)
        if delete_closed(user_id):
            return
    raise ServiceUnavailable


def delete_closed(user_id: UUID) -> bool:
    """Delete a user who can pay for nothing any more; False when a payment page was opened meanwhile."""
    with transaction() as current:
        db.session.execute(text(f"SET LOCAL statement_timeout = {DELETION_TIMEOUT_MS}"))
        require_locked_user(user_id)
        if not is_closed(user_id):
            return False
        delete_user(user_id)
        current.after_commit(lambda: invalidate_list(user_id))
        return True
