"""Requests and responses of the chatroom routes."""

from typing import Any

import marshmallow as ma

from app.billing.models import Tier
from app.chatrooms.models import MAX_TITLE_CHARS, TitleSource
from app.chatrooms.service import offered_models
from app.core import fields
from app.core.api import header
from app.core.schemas import NEXT_CURSOR, PageQuery, Schema

REPLAYED = {"Idempotent-Replayed": header("`true` when this Idempotency-Key had been answered before.")}


def check_model(name: str) -> None:
    """Raises marshmallow.ValidationError for a model that is not offered."""
    if name not in offered_models():
        raise ma.ValidationError("No model with this name is offered; see GET /models.")


class KeyHeaders(ma.Schema):
    """The header that lets a request be sent again."""

    idempotency_key = fields.String(
        "Send the same key again with the same request, and it counts as sent once; kept 24 hours.",
        data_key="Idempotency-Key",
        load_default=None,
        validate=ma.validate.Regexp("^[!-~]{1,255}$", error="1–255 visible ASCII characters."),
    )


class ChatroomIn(Schema):
    """A new chatroom. Every field is optional."""

    title = fields.Text(
        "1–255 characters after trimming. Without a title, the chatroom gets one after its first completed reply.",
        allow_none=True,
        max_chars=MAX_TITLE_CHARS,
        example="How the internet works",
    )
    instruction = fields.Text(
        "How Gemini should reply in this chatroom, 1–4000 characters after trimming; null: none.",
        allow_none=True,
        max_chars=4_000,
        example="Answer briefly, for a child of ten.",
    )
    model = fields.String(
        "One of `GET /models`; null: the default.", allow_none=True, validate=check_model, example=None
    )


class ChatroomChangesIn(ChatroomIn):
    """What changes; at least one field."""

    title = fields.Text("1–255 characters after trimming.", max_chars=MAX_TITLE_CHARS, example="How the internet works")
    pinned = fields.JsonBoolean("Whether it comes first in the list.", example=True)
    archived = fields.JsonBoolean("Whether it is listed among the archived ones.", example=False)

    @ma.validates_schema
    def check_for_a_change(self, data: dict[str, Any], **_: Any) -> None:
        if not data:
            raise ma.ValidationError("At least one field is needed.")


class ListQuery(PageQuery):
    """Which list, and which page of it."""

    archived = fields.Boolean("List the archived ones instead.", truthy={"true"}, falsy={"false"}, load_default=False)


class ModelOut(Schema):
    """A model that a chatroom may be given."""

    name = fields.String("The value for a chatroom's `model`.", example="gemini-3.5-flash")
    tier = fields.Choice("The lowest tier that may use it.", Tier, example="basic")
    default = fields.Boolean("Whether chatrooms without a model use it.", example=True)


class ModelsOut(Schema):
    """The models on offer."""

    items = ma.fields.List(ma.fields.Nested(ModelOut))


class ChatroomOut(Schema):
    """A chatroom."""

    id = fields.UUID("The chatroom's id.", example="0192d3a4-6b00-7c3f-8a55-0123456789ab")
    title = fields.String("Its title; null until it has one.", allow_none=True, example="How the internet works")
    title_source = fields.Choice("Who named it; null without a title.", TitleSource, allow_none=True, example="user")
    instruction = fields.String("How Gemini should reply; null: no instruction.", allow_none=True, example=None)
    model = fields.String("Its model; null: the default.", allow_none=True, example=None)
    pinned = fields.Boolean("Whether it comes first in the list.", example=False)
    archived = fields.Boolean("Whether it is listed among the archived ones.", example=False)
    created_at = fields.Timestamp("When it was opened.", example="2026-11-21T09:31:00.000000Z")
    updated_at = fields.Timestamp("When it was last changed or written to.", example="2026-11-21T09:31:00.000000Z")


class ChatroomPageOut(Schema):
    """A part of the list of chatrooms."""

    items = ma.fields.List(ma.fields.Nested(ChatroomOut))
    next_cursor = NEXT_CURSOR
