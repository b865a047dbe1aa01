"""Requests and responses of the account routes."""

from typing import Any

import marshmallow as ma

from app.auth.schemas import EXAMPLE_EVENT, EXAMPLE_KEY, EXAMPLE_SESSION, ApiKeyOut, Name, SecurityEventOut, SessionOut
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


class UsageQuery(Schema):
    """Which days, both included."""

    first = ma.fields.Date(
        data_key="from",
        format="%Y-%m-%d",
        load_default=None,
        metadata={"description": "The first day, UTC; absent: 29 days before the last.", "example": "2026-11-01"},
    )
    last = ma.fields.Date(
        data_key="to",
        format="%Y-%m-%d",
        load_default=None,
        metadata={"description": "The last day, UTC; absent: today.", "example": "2026-11-21"},
    )


class DayOfUsageOut(Schema):
    """The prompts of a day, and what their replies took in tokens."""

    date = ma.fields.Date(metadata={"description": "The day, UTC."})
    prompts = ma.fields.Integer(metadata={"description": "Prompts spent."})
    prompt_tokens = ma.fields.Integer(metadata={"description": "Tokens of the conversations sent."})
    output_tokens = ma.fields.Integer(metadata={"description": "Tokens of the replies' texts."})
    thinking_tokens = ma.fields.Integer(metadata={"description": "Tokens of thinking."})


class UsageHistoryOut(Schema):
    """A row a day, oldest first."""

    items = ma.fields.List(ma.fields.Nested(DayOfUsageOut))


EXAMPLE_DAY = {
    "date": "2026-11-21",
    "prompts": 3,
    "prompt_tokens": 420,
    "output_tokens": 180,
    "thinking_tokens": 510,
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
    api_keys = ma.fields.List(ma.fields.Nested(ApiKeyOut), metadata={"description": "Those that work."})
    security_events = ma.fields.List(
        ma.fields.Nested(SecurityEventOut), metadata={"description": "Those of the last 90 days, newest first."}
    )
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
    "api_keys": [EXAMPLE_KEY],
    "security_events": [EXAMPLE_EVENT],
    "chatrooms": [EXAMPLE_CHATROOM | {"messages": [EXAMPLE_PROMPT, EXAMPLE_REPLY]}],
}
