"""The user's row, mobile numbers and the profile; no routes."""
