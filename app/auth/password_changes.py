"""Use cases of setting a password. Each ends every earlier session, because one of them may be a thief's."""

from datetime import datetime
from uuid import UUID

from app.auth import codes
from app.auth.errors import AccountNotFound, OtpInvalid, WrongPassword
from app.auth.limits import WRONG_CODES_BUDGET
from app.auth.models import Purpose
from app.auth.passwords import hash_password, password_matches
from app.auth.throttles import give_password_try_back, given_back_when_busy, take_password_try
from app.auth.tokens import Client, Tokens, open_session, revoke_sessions
from app.billing.service import tier_of
from app.core.errors import ValidationFailed
from app.core.transactions import transaction
from app.users import queries as users
from app.users.mobile_numbers import mobile_key
from app.users.service import require_locked_user, require_user


def change_password(user_id: UUID, *, current: str | None, new: str, client: Client, now: datetime) -> Tokens:
    """Set a password and begin a new session; every earlier token stops working.

    current: the password that is set now; None only where none is. It is counted as a guess at first, and given
    back when it was right or could not be compared.
    Raises ValidationFailed, WrongPassword, RateLimited, TokenRevoked, ServiceUnavailable.
    """
    user = require_user(user_id)
    key, known_hash = mobile_key(user.mobile), user.password_hash
    if known_hash is None:
        new_hash = hash_password(new)
        with transaction():
            return replace_password(user_id, known_hash, new_hash, client, now)
    if current is None:
        raise ValidationFailed({"current_password": ["Required, because a password is set."]})
    with transaction():
        counted_since = take_password_try(key, now)
    with given_back_when_busy(key, counted_since):
        if not password_matches(known_hash, current):
            raise WrongPassword
        new_hash = hash_password(new)
    with transaction():
        give_password_try_back(key, counted_since)
        return replace_password(user_id, known_hash, new_hash, client, now)


def replace_password(user_id: UUID, known_hash: str | None, new_hash: str, client: Client, now: datetime) -> Tokens:
    """Put a hash in the place of the known one, end every session and begin a new one; the caller commits.

    Raises TokenRevoked; WrongPassword when somebody else changed the password meanwhile.
    """
    user = require_locked_user(user_id)
    if user.password_hash != known_hash:
        raise WrongPassword
    user.password_hash = new_hash
    revoke_sessions(user_id, now)
    return open_session(user, tier_of(user_id, now), client, now)


def reset_password(mobile: str, code: str, new: str, *, now: datetime) -> None:
    """Set a password with a code that was sent for it; every earlier token stops working.

    The code proves the number, so it also verifies one that never was.
    Raises OtpInvalid, OtpLocked, ServiceUnavailable, AccountNotFound (the code was right and is used up).
    """
    new_hash = hash_password(new)
    with WRONG_CODES_BUDGET.spend():
        with transaction():
            is_right = codes.use_code(mobile, Purpose.RESET_PASSWORD, code, now)
            user = users.lock_user_by_mobile(mobile)
            if is_right and user is not None:
                user.password_hash = new_hash
                user.verified_at = user.verified_at or now
                revoke_sessions(user.id, now)
                return
        raise AccountNotFound if is_right else OtpInvalid
