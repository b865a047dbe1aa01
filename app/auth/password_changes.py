"""Use cases of setting a password. Each ends every earlier session, because one of them may be a thief's."""

from datetime import datetime
from uuid import UUID

from app.auth import codes
from app.auth.errors import AccountNotFound, OtpInvalid, WrongPassword
from app.auth.guards import give_password_try_back, take_password_try
from app.auth.models import Purpose
from app.auth.passwords import hash_password, password_matches
from app.auth.tokens import Client, Tokens, open_session, revoke_sessions
from app.billing.service import tier_of
from app.core.auth import TokenRevoked
from app.core.errors import ValidationFailed
from app.core.transactions import transaction
from app.users import queries as users
from app.users.mobile_numbers import mobile_key


def change_password(user_id: UUID, *, current: str | None, new: str, client: Client, now: datetime) -> Tokens:
    """Set a password and begin a new session; every earlier token stops working.

    current: the password that is set now; None only where none is.
    Raises ValidationFailed, WrongPassword, RateLimited, TokenRevoked.
    """
    user = users.find_user(user_id)
    if user is None:
        raise TokenRevoked
    key, known_hash = mobile_key(user.mobile), user.password_hash
    if known_hash is not None:
        if current is None:
            raise ValidationFailed({"current_password": ["Required, because a password is set."]})
        with transaction():
            take_password_try(key, now)
        if not password_matches(known_hash, current):
            raise WrongPassword
    new_hash = hash_password(new)
    with transaction():
        if known_hash is not None:
            give_password_try_back(key)
        locked = users.lock_user(user_id)
        if locked is None:
            raise TokenRevoked
        if locked.password_hash != known_hash:  # somebody else changed it meanwhile
            raise WrongPassword
        locked.password_hash = new_hash
        revoke_sessions(user_id, now)
        return open_session(locked, tier_of(user_id, now), client, now)


def reset_password(mobile: str, code: str, new: str, *, now: datetime) -> None:
    """Set a password with a code that was sent for it; every earlier token stops working.

    The code proves the number, so it also verifies one that never was.
    Raises OtpInvalid, OtpLocked, AccountNotFound (the code was right and is used up).
    """
    new_hash = hash_password(new)
    with transaction():
        used = codes.use_code(mobile, Purpose.RESET_PASSWORD, code, now)
        user = users.lock_user_by_mobile(mobile)
        if used is not None and user is not None:
            user.password_hash, user.claim_origin = new_hash, None
            user.verified_at = user.verified_at or now
            revoke_sessions(user.id, now)
            return
    raise AccountNotFound if used is not None else OtpInvalid
