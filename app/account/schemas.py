"""Requests and responses of the account routes."""

from typing import Any

import marshmallow as ma

from app.auth.schemas import EXAMPLE_SESSION, Name, SessionOut
from app.chatrooms.schemas import EXAMPLE_CHATROOM, ChatroomOut
from app.core.schemas import Schema, Timestamp
from app.messages.schemas import EXAMPLE_PROMPT, EXAMPLE_REPLY, MessageOut
from app.users.profile import EXAMPLE_USER, UserOut


class ProfileIn(Schema):
    """What a user may change about himself."""

    name = Name(required=True)


class UsageOut(Schema):
    """The prompts of the day."""

    tier = ma.fields.String(
        validate=ma.validate.OneOf(["basic", "pro"]), metadata={"description": "The tier as of this request."}
    )
    limit = ma.fields.Integer(allow_none=True, metadata={"description": "Prompts a day; null for Pro."})
    used = ma.fields.Integer(metadata={"description": "Prompts spent today."})
    remaining = ma.fields.Integer(allow_none=True, metadata={"description": "Prompts left today; null for Pro."})
    resets_at = Timestamp(metadata={"description": "When the day ends: the next midnight, UTC."})


EXAMPLE_USAGE = {
    "tier": "basic",
    "limit": 5,
    "used": 2,
    "remaining": 3,
    "resets_at": "2026-11-22T00:00:00.000000Z",
}


class ExportedChatroomOut(ChatroomOut):
    """A chatroom with all its messages."""

    messages = ma.fields.List(ma.fields.Nested(MessageOut), metadata={"description": "All of them, oldest first."})


class ExportOut(Schema):
    """All that there is about a user."""

    user = ma.fields.Nested(UserOut)
    subscriptions = ma.fields.List(
        ma.fields.Dict(keys=ma.fields.String()), metadata={"description": "All that made the user Pro."}
    )
    sessions = ma.fields.List(ma.fields.Nested(SessionOut), metadata={"description": "The logins that go on."})
    chatrooms = ma.fields.List(ma.fields.Nested(ExportedChatroomOut), metadata={"description": "Oldest first."})


EXAMPLE_EXPORT: dict[str, Any] = {
    "user": EXAMPLE_USER,
    "subscriptions": [
        {
            "status": "granted",
            "reason": "Won at the fair",
            "created_at": "2026-11-21T09:30:00.000000Z",
            "ends_at": None,
            "revoked_at": None,
        }
    ],
    "sessions": [EXAMPLE_SESSION],
    "chatrooms": [EXAMPLE_CHATROOM | {"messages": [EXAMPLE_PROMPT, EXAMPLE_REPLY]}],
}
