"""Routes of chatrooms. The page of one room with its messages is the messages feature's."""

from typing import Any
from uuid import UUID

from flask import Response, url_for
from flask.views import MethodView

from app.chatrooms import service
from app.chatrooms.list_cache import through_cache
from app.chatrooms.schemas import EXAMPLE_CHATROOM, ChatroomIn, ChatroomOut, ChatroomPageOut
from app.core.api import Blueprint
from app.core.auth import current_user_id
from app.core.clock import utc_now
from app.core.errors import NotFound
from app.core.schemas import InvalidCursor, PageQuery

blp = Blueprint("chatroom", __name__, url_prefix="/chatroom", description="Open, list, rename and delete chatrooms.")

CACHE_HEADERS = {"X-Cache": {"description": "`HIT` or `MISS`.", "schema": {"type": "string"}}}
LOCATION = {"Location": {"description": "Where the chatroom is.", "schema": {"type": "string"}}}


@blp.route("")
class ChatroomCollection(MethodView):
    @blp.authenticated()
    @blp.arguments(ChatroomIn)
    @blp.response(201, ChatroomOut, example=EXAMPLE_CHATROOM, headers=LOCATION)
    def post(self, body: dict[str, Any]) -> object:
        """Open a chatroom"""
        room = service.create_chatroom(current_user_id(), body["title"], now=utc_now())
        return room, {"Location": url_for("messages.ChatroomPage", chatroom_id=room.id)}

    @blp.authenticated()
    @blp.arguments(PageQuery, location="query")
    @blp.response(
        200,
        ChatroomPageOut,
        example={"items": [EXAMPLE_CHATROOM], "next_cursor": None},
        headers=CACHE_HEADERS,
    )
    @blp.errors(InvalidCursor)
    def get(self, query: dict[str, Any]) -> object:
        """List chatrooms

        The one with the latest prompt comes first; one without prompts counts as of its opening. First pages
        are cached for a few minutes; a change shows at once."""
        user_id, limit, cursor = current_user_id(), query["limit"], query["cursor"]

        def query_page() -> str:
            return str(ChatroomPageOut().dumps(service.list_chatrooms(user_id, limit=limit, cursor=cursor)))

        body, hit = (query_page(), False) if cursor is not None else through_cache(user_id, limit, query_page)
        return Response(body, mimetype="application/json", headers={"X-Cache": "HIT" if hit else "MISS"})


@blp.route("/<id:chatroom_id>")
class ChatroomItem(MethodView):
    @blp.authenticated()
    @blp.arguments(ChatroomIn)
    @blp.response(200, ChatroomOut, example=EXAMPLE_CHATROOM)
    @blp.errors(NotFound)
    def patch(self, body: dict[str, Any], chatroom_id: UUID) -> object:
        """Rename a chatroom"""
        return service.rename_chatroom(current_user_id(), chatroom_id, body["title"], now=utc_now())

    @blp.authenticated()
    @blp.response(204)
    @blp.errors(NotFound)
    def delete(self, chatroom_id: UUID) -> None:
        """Delete a chatroom

        It is gone at once with all its messages; prompts already spent stay spent."""
        service.delete_chatroom(current_user_id(), chatroom_id, now=utc_now())
