"""Routes of accounts and their sessions."""

from app.auth.views import accounts, sessions

__all__ = ["accounts", "sessions"]
