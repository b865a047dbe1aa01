"""Routes of messages, and of a chatroom's page with its messages."""

from app.messages.views import prompts, replies
from app.messages.views.blueprint import blp

__all__ = ["blp", "prompts", "replies"]
