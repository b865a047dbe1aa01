"""Routes of a room: its page, its history, and sending a prompt."""

import re
from typing import Any
from uuid import UUID

from flask import request, url_for
from flask.views import MethodView

from app.chatrooms.schemas import EXAMPLE_CHATROOM
from app.core.auth import current_user_id
from app.core.clock import utc_now
from app.core.errors import NotFound
from app.core.pagination import InvalidCursor
from app.core.schemas import PageQuery
from app.messages import service
from app.messages.errors import IdempotencyKeyReused, QuotaExceeded
from app.messages.examples import EXAMPLE_PROMPT, EXAMPLE_QUEUED, EXAMPLE_REPLY
from app.messages.schemas import AcceptedOut, ChatroomWithMessagesOut, MessagePageOut, PromptHeaders, PromptIn
from app.messages.views.blueprint import QUOTA_HEADERS, blp, header
from app.messages.waiting import place_to_wait, wait_for_reply

MAX_WAIT_SECONDS = 20

ACCEPTED_HEADERS = QUOTA_HEADERS | {
    "Location": header("Where the reply is, and will be."),
    "Preference-Applied": header("`wait=N` when a wait was asked for and the reply came."),
    "Idempotent-Replayed": header("`true` when this Idempotency-Key had been answered before."),
}


@blp.route("")
class ChatroomPage(MethodView):
    @blp.authenticated()
    @blp.response(
        200,
        ChatroomWithMessagesOut,
        example=EXAMPLE_CHATROOM | {"messages": [EXAMPLE_PROMPT, EXAMPLE_REPLY], "next_cursor": None},
    )
    @blp.errors(NotFound)
    def get(self, chatroom_id: UUID) -> object:
        """Open a chatroom's page

        The chatroom with its latest 50 messages, oldest first."""
        room, page = service.open_room(current_user_id(), chatroom_id)
        return {
            "id": room.id,
            "title": room.title,
            "created_at": room.created_at,
            "updated_at": room.updated_at,
            "messages": page.items[::-1],
            "next_cursor": page.next_cursor,
        }


@blp.route("/message")
class MessageCollection(MethodView):
    @blp.authenticated()
    @blp.arguments(PromptIn)
    @blp.arguments(PromptHeaders, location="headers")
    @blp.response(
        202,
        AcceptedOut,
        example={"message": EXAMPLE_PROMPT, "reply": EXAMPLE_QUEUED},
        headers=ACCEPTED_HEADERS,
    )
    @blp.alt_response(
        200,
        schema=AcceptedOut,
        success=True,
        description="With `Prefer: wait=N`: the reply came in time.",
        example={"message": EXAMPLE_PROMPT, "reply": EXAMPLE_REPLY},
        headers=ACCEPTED_HEADERS,
    )
    @blp.errors(NotFound, QuotaExceeded, IdempotencyKeyReused)
    def post(self, body: dict[str, Any], headers: dict[str, Any], chatroom_id: UUID) -> object:
        """Send a message

        Stores the prompt, queues the reply and answers at once; `Location` is where the reply will be. With
        `Prefer: wait=10` the answer waits for the reply, up to that many seconds. With `stream: true` the reply can
        be followed as it is written, at its `…/stream`."""
        with place_to_wait(preferred_wait(headers["prefer"])) as wait_seconds:
            accepted = service.accept_prompt(
                current_user_id(),
                chatroom_id,
                body["text"],
                streamed=body["stream"],
                wait_seconds=wait_seconds,
                idempotency_key=headers["idempotency_key"],
                fingerprint=service.fingerprint_of(request.path, body["text"], str(body["stream"])),
                now=utc_now(),
            )
            accepted = wait_for_reply(current_user_id(), accepted, now=utc_now())
        answer_headers = accepted.usage.headers() | {
            "Location": url_for("messages.MessageItem", chatroom_id=chatroom_id, message_id=accepted.reply.id)
        }
        if accepted.ended and wait_seconds:
            answer_headers["Preference-Applied"] = f"wait={wait_seconds}"
        if accepted.replayed:
            answer_headers["Idempotent-Replayed"] = "true"
        return accepted, 200 if accepted.ended else 202, answer_headers


@blp.route("/messages")
class MessageHistory(MethodView):
    @blp.authenticated()
    @blp.arguments(PageQuery, location="query")
    @blp.response(200, MessagePageOut, example={"items": [EXAMPLE_REPLY, EXAMPLE_PROMPT], "next_cursor": None})
    @blp.errors(NotFound, InvalidCursor)
    def get(self, query: dict[str, Any], chatroom_id: UUID) -> object:
        """List a chatroom's messages

        Newest first."""
        return service.list_messages(current_user_id(), chatroom_id, limit=query["limit"], cursor=query["cursor"])


def preferred_wait(prefer: str) -> int:
    """Seconds of the first `wait=N` in `Prefer` (RFC 7240), clamped; 0 when there is none that makes sense."""
    for preference in prefer.split(","):
        name, _, value = preference.split(";", 1)[0].partition("=")
        if name.strip().lower() == "wait":
            seconds = value.strip().strip('"')
            return min(int(seconds), MAX_WAIT_SECONDS) if re.fullmatch(r"[0-9]{1,30}", seconds) else 0
    return 0
