"""The route of the search, with its query and its answer."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import marshmallow as ma

from app.chatrooms.models import Role
from app.core import fields
from app.core.api import Blueprint
from app.core.auth import Scope, current_user_id
from app.core.errors import NotFound
from app.core.schemas import NEXT_CURSOR, InvalidCursor, PageQuery, Schema
from app.search import service

blp = Blueprint("search", __name__, url_prefix="/search", description="Find messages of your own.")


class ChatroomId(fields.UUID):
    """The id of a chatroom in a query string. A malformed one is 404, as in a path: ids are opaque."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> UUID:
        try:
            return super()._deserialize(value, attr, data, **kwargs)
        except ma.ValidationError:
            raise NotFound from None


class SearchQuery(PageQuery):
    """What to look for."""

    q = fields.Text(
        "Words that must all be there, in any order; of the last one the beginning is enough.",
        attribute="query",
        required=True,
        max_chars=200,
        example="phone boo",
    )
    chatroom_id = ChatroomId("In this chatroom alone.", load_default=None)


class FoundOut(Schema):
    """A message that was found."""

    message_id = fields.UUID("Of the message.", attribute="id", example="0192d3a4-7101-7a2b-8c3d-2123456789ab")
    chatroom_id = fields.UUID("Of its chatroom.", example="0192d3a4-6b00-7c3f-8a55-0123456789ab")
    role = fields.Choice("`user` for a prompt, `model` for a reply.", Role, example="model")
    created_at = fields.Timestamp("When the prompt was accepted.", example="2026-11-21T09:32:00.000000Z")
    snippet = fields.String(
        "The text around the first match, cut with `…`.", example="DNS is the phone book of the internet…"
    )
    highlights = fields.List(
        "`[start, end]` of each match in the snippet, counted in Unicode characters.",
        ma.fields.List(ma.fields.Integer(), validate=ma.validate.Length(equal=2)),
        example=[[11, 16], [17, 20]],
    )


class FoundPageOut(Schema):
    """A page of what was found."""

    items = ma.fields.List(ma.fields.Nested(FoundOut))
    next_cursor = NEXT_CURSOR


@blp.get("")
@blp.authenticated("searchMessages", scope=Scope.CHAT_READ)
@blp.arguments(SearchQuery, location="query")
@blp.response(200, FoundPageOut)
@blp.errors(NotFound, InvalidCursor)
def search_messages(query: dict[str, Any]) -> object:
    """Search your messages

    Finds prompts and replies in all your chatrooms, archived ones too, but nothing superseded. The best matches
    come first; among very many messages, recent ones come before older ones. Case, accents and punctuation make no
    difference. A page may be short and still have a next one: go on until `next_cursor` is null."""
    return service.search(current_user_id(), **query)
