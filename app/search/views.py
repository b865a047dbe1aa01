"""The route of the search, with what it is asked and answers."""

from typing import Any

import marshmallow as ma
from flask.views import MethodView

from app.chatrooms.models import Role
from app.core.api import Blueprint
from app.core.auth import Scope, current_user_id
from app.core.errors import NotFound
from app.core.schemas import InvalidCursor, PageQuery, Schema, Text, Timestamp
from app.messages.schemas import EXAMPLE_PROMPT
from app.search import service

blp = Blueprint("search", __name__, url_prefix="/search", description="Find messages of your own.")

MAX_QUERY_CHARS = 200


class SearchQuery(PageQuery):
    """What to look for."""

    q = Text(
        attribute="query",
        required=True,
        max_chars=MAX_QUERY_CHARS,
        metadata={
            "description": "Words that must all be there, in any order; of the last one the beginning is enough.",
            "example": "phone boo",
        },
    )
    chatroom_id = ma.fields.UUID(load_default=None, metadata={"description": "In this chatroom alone."})


class FoundOut(Schema):
    """A message that was found."""

    message_id = ma.fields.UUID(metadata={"description": "Of the message."})
    chatroom_id = ma.fields.UUID(metadata={"description": "Of its chatroom."})
    role = ma.fields.Enum(Role, by_value=True, metadata={"description": "`user` for a prompt, `model` for a reply."})
    created_at = Timestamp(metadata={"description": "When the prompt was accepted."})
    snippet = ma.fields.String(metadata={"description": "The text around the first match, cut with `…`."})
    highlights = ma.fields.List(
        ma.fields.List(ma.fields.Integer()),
        metadata={"description": "`[start, end]` of each match in the snippet, counted in Unicode characters."},
    )


class FoundPageOut(Schema):
    """A part of what was found."""

    items = ma.fields.List(ma.fields.Nested(FoundOut))
    next_cursor = ma.fields.String(allow_none=True, metadata={"description": "For the next page; null at the end."})


EXAMPLE_FOUND: dict[str, Any] = {
    "message_id": "0192d3a4-7101-7a2b-8c3d-2123456789ab",
    "chatroom_id": EXAMPLE_PROMPT["chatroom_id"],
    "role": "model",
    "created_at": EXAMPLE_PROMPT["created_at"],
    "snippet": "DNS is the phone book of the internet…",
    "highlights": [[11, 16], [17, 20]],
}


@blp.route("")
class Search(MethodView):
    @blp.authenticated(scope=Scope.CHAT_READ)
    @blp.arguments(SearchQuery, location="query")
    @blp.response(200, FoundPageOut, example={"items": [EXAMPLE_FOUND], "next_cursor": None})
    @blp.errors(NotFound, InvalidCursor)
    def get(self, query: dict[str, Any]) -> object:
        """Search your messages

        Prompts and replies of all your chatrooms, archived ones too, without what was superseded; best first. Case,
        accents and signs make no difference. A page may be short and yet have a next one: go on until `next_cursor`
        is null."""
        return service.search(current_user_id(), **query)
