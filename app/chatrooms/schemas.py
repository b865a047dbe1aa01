"""Requests and responses of the chatroom routes."""

import re
from typing import Any

import marshmallow as ma

from app.billing.models import Tier
from app.chatrooms.models import MAX_TITLE_CHARS, TitleSource
from app.chatrooms.service import offered_models
from app.core.api import header
from app.core.schemas import PageQuery, Schema, StrictBoolean, Text, Timestamp, TrueOrFalse

REPLAYED = {"Idempotent-Replayed": header("`true` when this Idempotency-Key had been answered before.")}
MAX_INSTRUCTION_CHARS = 4_000
IDEMPOTENCY_KEY = "[!-~]{1,255}"

EXAMPLE_CHATROOM: dict[str, Any] = {
    "id": "0192d3a4-6b00-7c3f-8a55-0123456789ab",
    "title": "How the internet works",
    "title_source": "user",
    "instruction": None,
    "model": None,
    "pinned": False,
    "archived": False,
    "created_at": "2026-11-21T09:31:00.000000Z",
    "updated_at": "2026-11-21T09:31:00.000000Z",
}


def check_model(name: str) -> None:
    """Raises marshmallow.ValidationError for a model that is not offered."""
    if name not in offered_models():
        raise ma.ValidationError("No model of this name is offered: see GET /models.")


def check_idempotency_key(key: str) -> None:
    """Raises marshmallow.ValidationError. (`Regexp` would show its pattern, whose `\\Z` JavaScript does not know.)"""
    if not re.fullmatch(IDEMPOTENCY_KEY, key):
        raise ma.ValidationError("1–255 visible ASCII characters.")


class KeyHeaders(ma.Schema):
    """The header that lets a request be sent again."""

    idempotency_key = ma.fields.String(
        data_key="Idempotency-Key",
        load_default=None,
        validate=check_idempotency_key,
        metadata={
            "pattern": f"^{IDEMPOTENCY_KEY}$",
            "description": "Send the same key again with the same request, and it counts as sent once; kept 24 hours.",
        },
    )


class ChatroomIn(Schema):
    """A new chatroom. Nothing has to be said."""

    title = Text(
        allow_none=True,
        max_chars=MAX_TITLE_CHARS,
        metadata={
            "description": "1–255 characters after trimming. Without one it gets one after its first completed reply.",
            "example": "How the internet works",
        },
    )
    instruction = Text(
        allow_none=True,
        max_chars=MAX_INSTRUCTION_CHARS,
        metadata={
            "description": "How Gemini should reply in this chatroom, 1–4000 characters after trimming; null: no word.",
            "example": "Answer briefly, for a child of ten.",
        },
    )
    model = ma.fields.String(
        allow_none=True,
        validate=check_model,
        metadata={"description": "One of `GET /models`; null: the default.", "example": None},
    )


class ChatroomChangesIn(ChatroomIn):
    """What changes; at least one field."""

    title = Text(
        max_chars=MAX_TITLE_CHARS,
        metadata={"description": "1–255 characters after trimming.", "example": "How the internet works"},
    )
    pinned = StrictBoolean(metadata={"description": "Whether it comes first in the list.", "example": True})
    archived = StrictBoolean(
        metadata={"description": "Whether it is listed among the archived ones.", "example": False}
    )

    @ma.validates_schema
    def check_for_a_change(self, data: dict[str, Any], **_: Any) -> None:
        if not data:
            raise ma.ValidationError("At least one field is needed.")


class ListQuery(PageQuery):
    """Which part of which list."""

    archived = TrueOrFalse(load_default=False, metadata={"description": "List the archived ones instead."})


class ModelOut(Schema):
    """A model that a chatroom may be given."""

    name = ma.fields.String(metadata={"description": "For a chatroom's `model`."})
    tier = ma.fields.Enum(Tier, by_value=True, metadata={"description": "The lowest tier that may use it."})
    default = ma.fields.Boolean(metadata={"description": "Whether chatrooms without a model use it."})


class ModelsOut(Schema):
    """The models on offer."""

    items = ma.fields.List(ma.fields.Nested(ModelOut))


class ChatroomOut(Schema):
    """A chatroom."""

    id = ma.fields.UUID(metadata={"description": "The chatroom's id."})
    title = ma.fields.String(allow_none=True, metadata={"description": "Its title; null: not there yet."})
    title_source = ma.fields.Enum(
        TitleSource,
        by_value=True,
        allow_none=True,
        attribute="named_by",
        metadata={"description": "Who named it; null without a title."},
    )
    instruction = ma.fields.String(allow_none=True, metadata={"description": "How Gemini should reply, if said."})
    model = ma.fields.String(allow_none=True, metadata={"description": "Its model; null: the default."})
    pinned = ma.fields.Boolean(metadata={"description": "Whether it comes first in the list."})
    archived = ma.fields.Boolean(metadata={"description": "Whether it is listed among the archived ones."})
    created_at = Timestamp(metadata={"description": "When it was opened."})
    updated_at = Timestamp(metadata={"description": "When it was last changed or written to."})


class ChatroomPageOut(Schema):
    """A part of the list of chatrooms."""

    items = ma.fields.List(ma.fields.Nested(ChatroomOut))
    next_cursor = ma.fields.String(allow_none=True, metadata={"description": "For the next page; null at the end."})
