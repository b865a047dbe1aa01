"""Routes of chatrooms, and of the models on offer. One room's page with its messages is the messages feature's."""

from typing import Any
from uuid import UUID

from flask import Response, url_for

from app.chatrooms import schemas, service
from app.chatrooms.list_cache import through_cache
from app.chatrooms.service import IdempotencyKeyReused, ModelNotInTier, offered_models
from app.core import settings
from app.core.api import Blueprint, header
from app.core.auth import Scope, current_user_id
from app.core.clock import utc_now
from app.core.errors import NotFound
from app.core.schemas import InvalidCursor

blp = Blueprint("chatroom", __name__, url_prefix="/chatroom", description="Open, list, change and delete chatrooms.")
models_blp = Blueprint("models", __name__, url_prefix="/models", description="The models that chatrooms may be given.")

OPENED_HEADERS = schemas.REPLAYED | {"Location": header("Where the chatroom is.")}


@blp.post("")
@blp.authenticated("createChatroom", scope=Scope.CHAT_WRITE)
@blp.arguments(schemas.ChatroomIn, required=False)
@blp.arguments(schemas.KeyHeaders, location="headers")
@blp.response(201, schemas.ChatroomOut, headers=OPENED_HEADERS)
@blp.errors(ModelNotInTier, IdempotencyKeyReused)
def create_chatroom(body: dict[str, Any], headers: dict[str, Any]) -> object:
    """Open a chatroom

    A chatroom without a title gets one after its first completed reply."""
    given = {name: body.get(name) for name in ("title", "instruction", "model")}
    room, replayed = service.create_chatroom(current_user_id(), **given, **headers, now=utc_now())
    location = {"Location": url_for("messages.get_chatroom", chatroom_id=room.id)}
    return room, location | ({"Idempotent-Replayed": "true"} if replayed else {})


@blp.get("")
@blp.authenticated("listChatrooms", scope=Scope.CHAT_READ)
@blp.arguments(schemas.ListQuery, location="query")
@blp.response(200, schemas.ChatroomPageOut, conditional=True, headers={"X-Cache": header("`HIT` or `MISS`.")})
@blp.errors(InvalidCursor)
def list_chatrooms(query: dict[str, Any]) -> object:
    """List chatrooms

    Pinned chatrooms come first, then those with the latest prompt. A chatroom without prompts is placed by when it
    was opened. First pages are cached for a few minutes, but a change shows at once."""
    user_id, limit, archived = current_user_id(), query["limit"], query["archived"]

    def query_page() -> str:
        return str(schemas.ChatroomPageOut().dumps(service.list_chatrooms(user_id, **query)))

    is_first = query["cursor"] is None
    body, hit = through_cache(user_id, limit, query_page, archived=archived) if is_first else (query_page(), False)
    return Response(body, mimetype="application/json", headers={"X-Cache": "HIT" if hit else "MISS"})


@blp.patch("/<id:chatroom_id>")
@blp.authenticated("updateChatroom", scope=Scope.CHAT_WRITE)
@blp.arguments(schemas.ChatroomChangesIn)
@blp.response(200, schemas.ChatroomOut)
@blp.errors(NotFound, ModelNotInTier)
def update_chatroom(body: dict[str, Any], chatroom_id: UUID) -> object:
    """Change a chatroom

    Sets its title, instruction or model, or whether it is pinned or archived. Fields left out stay as they are."""
    return service.change_chatroom(current_user_id(), chatroom_id, body, now=utc_now())


@blp.delete("/<id:chatroom_id>")
@blp.authenticated("deleteChatroom", scope=Scope.CHAT_WRITE)
@blp.response(204)
@blp.errors(NotFound)
def delete_chatroom(chatroom_id: UUID) -> None:
    """Delete a chatroom

    It is gone at once with all its messages; prompts already spent stay spent."""
    service.delete_chatroom(current_user_id(), chatroom_id, now=utc_now())


@models_blp.get("")
@models_blp.authenticated("listModels", scope=Scope.CHAT_READ)
@models_blp.response(200, schemas.ModelsOut, conditional=True)
def list_models() -> object:
    """List the models

    The models that a chatroom may be given, and the lowest tier that may use each."""
    default = settings().gemini_model
    models = offered_models().items()
    return {"items": [{"name": name, "tier": tier, "default": name == default} for name, tier in models]}
