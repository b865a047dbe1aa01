"""The user's row and mobile numbers; no routes."""
