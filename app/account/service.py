"""Use cases around one's own account."""

from datetime import datetime
from uuid import UUID

from app.billing.service import tier_of
from app.core.auth import TokenRevoked
from app.core.transactions import transaction
from app.users.profiles import Profile
from app.users.queries import find_user


def profile(user_id: UUID, *, now: datetime) -> Profile:
    """The user as he is now. Raises TokenRevoked when he is gone."""
    user = find_user(user_id)
    if user is None:
        raise TokenRevoked
    return Profile.of(user, tier_of(user_id, now))


def rename(user_id: UUID, name: str | None, *, now: datetime) -> Profile:
    """Change what to call the user. Raises TokenRevoked when he is gone."""
    with transaction():
        user = find_user(user_id)
        if user is None:
            raise TokenRevoked
        user.name = name
    return Profile.of(user, tier_of(user_id, now))
