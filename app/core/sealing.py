"""Encryption of the little that must be readable again, but by this service alone."""

import base64
import hashlib
import hmac
from datetime import datetime, timedelta

from cryptography.fernet import Fernet, InvalidToken

from app.core.settings import settings


def seal(purpose: str, text: str, now: datetime) -> str:
    """The text encrypted and authenticated (Fernet), under a key of its own for each purpose."""
    return sealer(purpose).encrypt_at_time(text.encode(), int(now.timestamp())).decode()


def unseal(purpose: str, sealed: str, *, max_age: timedelta, now: datetime) -> str | None:
    """What was sealed; None when it is older than `max_age`, or was not sealed here."""
    try:
        moment = int(now.timestamp())
        return sealer(purpose).decrypt_at_time(sealed.encode(), int(max_age.total_seconds()), moment).decode()
    except InvalidToken:
        return None


def sealer(purpose: str) -> Fernet:
    """The cipher of a purpose; its key is derived from JWT_SECRET, apart from those of keyed hashes."""
    key = hmac.digest(settings().jwt_secret.encode(), f"seal:{purpose}".encode(), hashlib.sha256)
    return Fernet(base64.urlsafe_b64encode(key))
