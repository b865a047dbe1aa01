"""Chatrooms and their cached list, the tables of messages and idempotency keys, and the models on offer."""
