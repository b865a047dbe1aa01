"""Chatrooms and their cached list."""
