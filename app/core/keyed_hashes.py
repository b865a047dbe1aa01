"""HMACs of what must be recognised again but not be readable: one-time codes, mobile numbers."""

import hashlib
import hmac

from app.core.settings import settings


def keyed_hash(purpose: str, *parts: str) -> str:
    """HMAC-SHA-256 over `parts`, hexadecimal, under a key of its own for each purpose.

    The purpose's key is derived from JWT_SECRET, so the hashes of one purpose tell nothing about another's.
    """
    purpose_key = hmac.digest(settings().jwt_secret.encode(), purpose.encode(), hashlib.sha256)
    return hmac.new(purpose_key, "\x1f".join(parts).encode(), hashlib.sha256).hexdigest()
