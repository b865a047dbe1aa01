"""Requests and responses of the account routes."""

import marshmallow as ma

from app.auth.schemas import Name
from app.core.schemas import Schema, Timestamp


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
