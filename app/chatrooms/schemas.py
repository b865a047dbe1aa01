"""Requests and responses of the chatroom routes."""

from typing import Any

import marshmallow as ma

from app.chatrooms.models import MAX_TITLE_CHARS
from app.core.schemas import Schema, Text, Timestamp

EXAMPLE_CHATROOM: dict[str, Any] = {
    "id": "0192d3a4-6b00-7c3f-8a55-0123456789ab",
    "title": "How the internet works",
    "created_at": "2026-11-21T09:31:00.000000Z",
    "updated_at": "2026-11-21T09:31:00.000000Z",
}


class ChatroomIn(Schema):
    """A chatroom's title."""

    title = Text(
        required=True,
        max_chars=MAX_TITLE_CHARS,
        metadata={"description": "1–255 characters after trimming.", "example": "How the internet works"},
    )


class ChatroomOut(Schema):
    """A chatroom."""

    id = ma.fields.UUID(metadata={"description": "The chatroom's id."})
    title = ma.fields.String(metadata={"description": "Its title."})
    created_at = Timestamp(metadata={"description": "When it was opened."})
    updated_at = Timestamp(metadata={"description": "When it was last renamed or written to."})


class ChatroomPageOut(Schema):
    """A part of the list of chatrooms."""

    items = ma.fields.List(ma.fields.Nested(ChatroomOut))
    next_cursor = ma.fields.String(allow_none=True, metadata={"description": "For the next page; null at the end."})
