"""Routes of messages: send and edit prompts; read a room's history; read, follow, cancel and retry replies."""

import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any
from urllib.request import parse_http_list
from uuid import UUID

from flask import Response, request, url_for

from app.chatrooms.schemas import REPLAYED, ChatroomOut
from app.chatrooms.service import IdempotencyKeyReused, ModelNotInTier, fingerprint_of, get_message
from app.core.api import Blueprint, header
from app.core.auth import Scope, current_user_id
from app.core.clock import utc_now
from app.core.errors import NotFound
from app.core.http import has_hung_up
from app.core.schemas import InvalidCursor
from app.generation import service as replies
from app.messages import service
from app.messages.schemas import (
    EXAMPLE_EVENTS,
    EXAMPLE_PROMPT,
    EXAMPLE_QUEUED,
    EXAMPLE_REPLY,
    STREAM,
    AcceptedOut,
    ChatroomWithMessagesOut,
    HistoryQuery,
    MessageOut,
    MessagePageOut,
    PromptHeaders,
    PromptIn,
    StreamHeaders,
)
from app.messages.service import MessageNotEditable
from app.quota.usage import QUOTA_HEADERS, QuotaExceeded, quota_headers
from app.streaming.following import Cursor, Event, TooManyStreams, follow_reply

MAX_WAIT_SECONDS = 20
RECONNECT_MS = 1_000
LINE_ENDS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}  # to some clients
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

blp = Blueprint(
    "messages",
    __name__,
    url_prefix="/chatroom/<id:chatroom_id>",
    description="Send and edit prompts; read, follow, cancel and retry replies.",
)

ACCEPTED_HEADERS = QUOTA_HEADERS | REPLAYED | {"Location": header("Where the reply is, and will be.")}
ROOM_FIELDS = tuple(ChatroomOut().fields)


def takes_prompt(view: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments and the responses that sending and editing a prompt have in common."""
    example = {"message": EXAMPLE_PROMPT, "reply": EXAMPLE_REPLY}
    in_time = "With `Prefer: wait=N`: the reply has ended in time, `completed`, `failed` or `canceled`."
    in_time_headers = ACCEPTED_HEADERS | {"Preference-Applied": header("`wait=N` when a wait was asked for.")}
    for decorate in (
        blp.alt_response(
            200, schema=AcceptedOut, success=True, description=in_time, example=example, headers=in_time_headers
        ),
        blp.response(202, AcceptedOut, example=example | {"reply": EXAMPLE_QUEUED}, headers=ACCEPTED_HEADERS),
        blp.arguments(PromptHeaders, location="headers"),
        blp.arguments(PromptIn),
    ):
        view = decorate(view)
    return view


@blp.get("")
@blp.authenticated("getChatroom", scope=Scope.CHAT_READ)
@blp.response(200, ChatroomWithMessagesOut, conditional=True)
@blp.errors(NotFound)
def get_chatroom(chatroom_id: UUID) -> object:
    """Open a chatroom's page

    The chatroom with the latest 50 messages of its current conversation, oldest first."""
    room, page = service.open_room(current_user_id(), chatroom_id)
    return {
        **{name: getattr(room, name) for name in ROOM_FIELDS},
        "messages": page.items[::-1],
        "next_cursor": page.next_cursor,
    }


@blp.post("/message")
@blp.authenticated("sendMessage", scope=Scope.CHAT_WRITE)
@takes_prompt
@blp.errors(NotFound, ModelNotInTier, QuotaExceeded, IdempotencyKeyReused)
def send_message(body: dict[str, Any], headers: dict[str, Any], chatroom_id: UUID) -> object:
    """Send a message

    Stores the prompt, queues the reply and answers at once; `Location` is where the reply will be. With
    `Prefer: wait=10` the answer waits up to that many seconds for the reply, even while earlier replies of the
    chatroom are written. Repeated under its `Idempotency-Key`, a request waits no longer than the first one may.
    With `stream: true` the reply can be followed at its `…/stream` while it is written. An archived chatroom stays
    archived."""
    return send(body, headers, chatroom_id)


def send(body: dict[str, Any], headers: dict[str, Any], chatroom_id: UUID, edited_id: UUID | None = None) -> object:
    """Accept a prompt and answer with it and its reply. edited_id: the prompt that it replaces."""
    with service.acquire_wait_slot(preferred_wait(headers["prefer"])) as wait_seconds:
        accepted = service.accept_prompt(
            current_user_id(),
            chatroom_id,
            body["text"],
            streamed=body["stream"],
            wait_seconds=wait_seconds,
            idempotency_key=headers["idempotency_key"],
            fingerprint=fingerprint_of(request.path.lower(), body["text"], str(body["stream"])),
            edited_id=edited_id,
            now=utc_now(),
        )
        accepted = service.wait_for_reply(current_user_id(), accepted, now=utc_now())
    answer_headers = quota_headers(accepted.usage) | {
        "Location": url_for("messages.read_message", chatroom_id=chatroom_id, message_id=accepted.reply.id)
    }
    has_ended = accepted.reply.status.is_final
    if has_ended and wait_seconds:
        answer_headers["Preference-Applied"] = f"wait={wait_seconds}"
    if accepted.replayed:
        answer_headers["Idempotent-Replayed"] = "true"
    return accepted, 200 if has_ended else 202, answer_headers


@blp.get("/messages")
@blp.authenticated("listMessages", scope=Scope.CHAT_READ)
@blp.arguments(HistoryQuery, location="query")
@blp.response(200, MessagePageOut, example={"items": [EXAMPLE_REPLY, EXAMPLE_PROMPT], "next_cursor": None})
@blp.errors(NotFound, InvalidCursor)
def list_messages(query: dict[str, Any], chatroom_id: UUID) -> object:
    """List a chatroom's messages

    Newest first: the messages of the current conversation, or all of them with `superseded=include`."""
    with_superseded = query.pop("superseded") == "include"
    return service.list_messages(current_user_id(), chatroom_id, **query, with_superseded=with_superseded)


def preferred_wait(prefer: str) -> int:
    """Return the seconds of the first `wait=N` in `Prefer` (RFC 7240), clamped; 0 if it is missing or invalid."""
    for preference in parse_http_list(prefer):  # a comma may stand within quotation marks
        name, _, value = preference.split(";", 1)[0].partition("=")
        if name.strip().lower() == "wait":
            seconds = value.strip().strip('"')
            return min(int(seconds), MAX_WAIT_SECONDS) if re.fullmatch(r"[0-9]{1,30}", seconds) else 0
    return 0


@blp.get("/messages/<id:message_id>")
@blp.authenticated("getMessage", scope=Scope.CHAT_READ)
@blp.response(200, MessageOut, conditional=True)
@blp.errors(NotFound)
def read_message(chatroom_id: UUID, message_id: UUID) -> object:
    """Read a message

    Poll a reply here until its `status` is final; or follow its stream, or send the prompt with
    `Prefer: wait`."""
    return get_message(current_user_id(), chatroom_id, message_id)


@blp.post("/messages/<id:message_id>/edit")
@blp.authenticated("editPrompt", scope=Scope.CHAT_WRITE)
@takes_prompt
@blp.errors(NotFound, ModelNotInTier, QuotaExceeded, IdempotencyKeyReused, MessageNotEditable)
def edit_prompt(body: dict[str, Any], headers: dict[str, Any], chatroom_id: UUID, message_id: UUID) -> object:
    """Edit a prompt

    Replaces a prompt of the current conversation with a new one, and answers as sending one does. Costs a prompt.
    The old prompt and all turns after it are superseded: kept, but neither shown by default nor sent to Gemini.
    Refused while a reply of the chatroom is under way."""
    return send(body, headers, chatroom_id, edited_id=message_id)


@blp.get("/messages/<id:message_id>/stream")
@blp.authenticated("followReply", scope=Scope.CHAT_READ)
@blp.arguments(StreamHeaders, location="headers")
@blp.response(200, STREAM, content_type="text/event-stream", example=EXAMPLE_EVENTS)
@blp.errors(NotFound, TooManyStreams)
def stream_reply(headers: dict[str, Any], chatroom_id: UUID, message_id: UUID) -> Response:
    """Follow a reply as it is written

    Server-Sent Events, one `data: <JSON>` each: `status`, `context` (how much of the chatroom Gemini sees),
    then `delta` with the next piece of text, `reset` when a new attempt begins (discard the text so far), and at
    the end `completed`, `failed` or `canceled` with the message. The joined deltas since the last `reset` are the
    stored text. An event's `id` is `attempt:characters`: send the last one as `Last-Event-ID` to resume from
    there, even much later. While nothing happens, a comment comes every 15 s. `reconnect` asks the client to open
    the stream again at once. Within about 15 s of a logout, or of the deletion of the chatroom or the account, the
    connection closes without a final event; opening the stream again then gives 401 or 404.

    The reply to a prompt sent with `stream: true` comes in pieces, any other in one."""
    cursor, has_left = Cursor.parse(headers["last_event_id"]), partial(has_hung_up, request.environ)
    until_closed = ExitStack()
    events = until_closed.enter_context(
        follow_reply(current_user_id(), chatroom_id, message_id, cursor=cursor, has_hung_up=has_left)
    )
    response = Response(map(event_lines, events), mimetype="text/event-stream", headers=STREAM_HEADERS)
    response.call_on_close(until_closed.close)
    return response


@blp.post("/messages/<id:message_id>/cancel")
@blp.authenticated("cancelReply", scope=Scope.CHAT_WRITE)
@blp.response(200, MessageOut, example=EXAMPLE_REPLY | {"status": "canceled", "text": "DNS is the"})
@blp.errors(NotFound, replies.ReplyNotCancelable)
def cancel_reply(chatroom_id: UUID, message_id: UUID) -> object:
    """Cancel a reply

    Stops a reply that is queued or being written, and keeps the text so far. The prompt is refunded only if work
    on the reply, or on its latest retry, had not begun."""
    return replies.cancel_reply(current_user_id(), chatroom_id, message_id, now=utc_now())


@blp.post("/messages/<id:message_id>/retry")
@blp.authenticated("retryReply", scope=Scope.CHAT_WRITE)
@blp.response(
    202,
    MessageOut,
    example=EXAMPLE_QUEUED,
    headers=QUOTA_HEADERS | {"Location": header("Where the reply will be.")},
)
@blp.errors(NotFound, replies.ReplyNotRetryable, ModelNotInTier, QuotaExceeded)
def retry_reply(chatroom_id: UUID, message_id: UUID) -> object:
    """Regenerate a reply

    Costs a prompt. Gemini sees only the turns before the reply. A failed or canceled reply is generated again in
    place; text that was kept of it stays until the new text is there. A completed reply is superseded, with all
    turns after it, and a new one is generated.

    Takes no `Idempotency-Key`: a retry repeated after the reply has ended starts and charges another."""
    reply, usage = replies.retry_reply(current_user_id(), chatroom_id, message_id, now=utc_now())
    location = url_for("messages.read_message", chatroom_id=chatroom_id, message_id=reply.id)
    return reply, 202, quota_headers(usage) | {"Location": location}


def event_lines(event: Event | None) -> str:
    """Write an event in the format of the HTML standard, 9.2.6; a heartbeat (None) is a comment."""
    if event is None:
        return ": still here\n\n"
    data = {"message": MessageOut().dump(event.message)} if event.message else event.data or {}
    lines = [f"event: {event.name}", f"data: {json.dumps(data, ensure_ascii=False).translate(LINE_ENDS)}"]
    lines += [f"id: {event.cursor}"] if event.cursor else []
    lines += [f"retry: {RECONNECT_MS}"] if event.name == "reconnect" else []
    return "\n".join(lines) + "\n\n"
