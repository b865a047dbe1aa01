"""Requests and responses of the account routes."""

import marshmallow as ma

from app.auth.schemas import ApiKeyOut, Name, SecurityEventOut, SessionOut, UserOut
from app.billing.models import Tier
from app.chatrooms.schemas import ChatroomOut
from app.core import fields
from app.core.schemas import Schema
from app.messages.schemas import EXAMPLE_PROMPT, EXAMPLE_REPLY, MessageOut


class ProfileIn(Schema):
    """What users may change about themselves."""

    name = Name(required=True)


class UsageOut(Schema):
    """The prompts of the day."""

    tier = fields.Choice("The tier as of this request.", Tier, example="basic")
    limit = fields.Integer("Prompts a day; null for Pro.", allow_none=True, example=5)
    used = fields.Integer("Prompts spent today.", example=2)
    remaining = fields.Integer("Prompts left today; null for Pro.", allow_none=True, example=3)
    resets_at = fields.Timestamp("When the day ends: the next midnight, UTC.", example="2026-11-22T00:00:00.000000Z")


class UsageQuery(Schema):
    """Which days, both included."""

    first = fields.Date(
        "The first day, UTC; default: 29 days before the last.",
        data_key="from",
        format="%Y-%m-%d",
        load_default=None,
        example="2026-11-01",
    )
    last = fields.Date(
        "The last day, UTC; default: today.", data_key="to", format="%Y-%m-%d", load_default=None, example="2026-11-21"
    )


class DayOfUsageOut(Schema):
    """The prompts of a day, and what their replies took in tokens."""

    date = fields.Date("The day, UTC.", example="2026-11-21")
    prompts = fields.Integer("Prompts spent.", example=3)
    prompt_tokens = fields.Integer("Tokens of the conversations sent.", example=420)
    output_tokens = fields.Integer("Tokens of the replies' texts.", example=180)
    thinking_tokens = fields.Integer("Tokens spent on thinking.", example=510)


class UsageHistoryOut(Schema):
    """A row a day, oldest first."""

    items = ma.fields.List(ma.fields.Nested(DayOfUsageOut))


EXAMPLE_GRANT = {
    "status": "granted",
    "reason": "Won at the fair",
    "created_at": "2026-11-21T09:30:00.000000Z",
    "ends_at": None,
    "revoked_at": None,
}


class ExportedChatroomOut(ChatroomOut):
    """A chatroom with all its messages."""

    messages = fields.List(
        "All of them, oldest first.", ma.fields.Nested(MessageOut), example=[EXAMPLE_PROMPT, EXAMPLE_REPLY]
    )


class ExportOut(Schema):
    """A user's data. The usage of each day has a route of its own."""

    user = ma.fields.Nested(UserOut)
    subscriptions = fields.List(
        "Every subscription, and every grant of Pro.", ma.fields.Dict(keys=ma.fields.String()), example=[EXAMPLE_GRANT]
    )
    sessions = fields.List("Active sessions.", ma.fields.Nested(SessionOut))
    api_keys = fields.List("Active API keys.", ma.fields.Nested(ApiKeyOut))
    security_events = fields.List("Those of the last 90 days, newest first.", ma.fields.Nested(SecurityEventOut))
    chatrooms = fields.List("Oldest first.", ma.fields.Nested(ExportedChatroomOut))
