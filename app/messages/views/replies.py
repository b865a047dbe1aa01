"""Routes of one message: read it, follow it as it is written, cancel it, have it made again."""

import json
from contextlib import ExitStack
from functools import partial
from typing import Any
from uuid import UUID

from flask import Response, request, url_for
from flask.views import MethodView

from app.core.auth import current_user_id
from app.core.clock import utc_now
from app.core.connections import has_hung_up
from app.core.errors import NotFound
from app.messages import replies, service
from app.messages.errors import QuotaExceeded, ReplyNotCancelable, ReplyNotRetryable, TooManyStreams
from app.messages.examples import EXAMPLE_EVENTS, EXAMPLE_QUEUED, EXAMPLE_REPLY, STREAM_EVENT
from app.messages.following import follow_reply
from app.messages.schemas import MessageOut, StreamHeaders
from app.messages.streaming import Event, Place
from app.messages.views.blueprint import QUOTA_HEADERS, blp, header

RECONNECT_MS = 1_000
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@blp.route("/messages/<id:message_id>")
class MessageItem(MethodView):
    @blp.authenticated()
    @blp.response(200, MessageOut, example=EXAMPLE_REPLY)
    @blp.errors(NotFound)
    def get(self, chatroom_id: UUID, message_id: UUID) -> object:
        """Read a message

        Poll a reply here until its `status` is final, follow its stream, or send the prompt with
        `Prefer: wait`."""
        return service.get_message(current_user_id(), chatroom_id, message_id)


@blp.route("/messages/<id:message_id>/stream")
class MessageStream(MethodView):
    @blp.authenticated()
    @blp.arguments(StreamHeaders, location="headers")
    @blp.response(200, STREAM_EVENT, content_type="text/event-stream", example=EXAMPLE_EVENTS)
    @blp.errors(NotFound, TooManyStreams)
    def get(self, headers: dict[str, Any], chatroom_id: UUID, message_id: UUID) -> Response:
        """Follow a reply as it is written

        Server-Sent Events, one `data: <JSON>` each: `status`, then `delta` with the next piece of text, `reset`
        when a new attempt begins (forget what came), and at the end `completed`, `failed` or `canceled` with
        the message. The joined deltas since the last `reset` are the stored text. An event's `id` is
        `attempt:characters`: send the last one as `Last-Event-ID` to go on from there, also much later. A
        comment comes every 15 s while nothing happens; `reconnect` asks to come back at once.

        Prompts sent with `stream: true` come in pieces, others in one."""
        place, hung_up = Place.parse(headers["last_event_id"]), partial(has_hung_up, request.environ)
        until_closed = ExitStack()
        events = until_closed.enter_context(
            follow_reply(current_user_id(), chatroom_id, message_id, place=place, hung_up=hung_up)
        )
        response = Response(map(event_lines, events), mimetype="text/event-stream", headers=STREAM_HEADERS)
        response.call_on_close(until_closed.close)
        return response


@blp.route("/messages/<id:message_id>/cancel")
class MessageCancel(MethodView):
    @blp.authenticated()
    @blp.response(200, MessageOut, example=EXAMPLE_REPLY | {"status": "canceled", "text": "DNS is the"})
    @blp.errors(NotFound, ReplyNotCancelable)
    def post(self, chatroom_id: UUID, message_id: UUID) -> object:
        """Cancel a reply

        Stops one that is queued or being written and keeps what there is of it. Only one that was still
        queued gives its prompt back."""
        return replies.cancel_reply(current_user_id(), chatroom_id, message_id, now=utc_now())


@blp.route("/messages/<id:message_id>/retry")
class MessageRetry(MethodView):
    @blp.authenticated()
    @blp.response(
        202,
        MessageOut,
        example=EXAMPLE_QUEUED,
        headers=QUOTA_HEADERS | {"Location": header("Where the reply will be.")},
    )
    @blp.errors(NotFound, ReplyNotRetryable, QuotaExceeded)
    def post(self, chatroom_id: UUID, message_id: UUID) -> object:
        """Have a reply made again

        For one that failed or was canceled; costs a prompt. It sees only the turns before it, and a part that
        was kept stays until the new text is there."""
        retried = replies.retry_reply(current_user_id(), chatroom_id, message_id, now=utc_now())
        location = url_for("messages.MessageItem", chatroom_id=chatroom_id, message_id=message_id)
        return retried.reply, 202, retried.usage.headers() | {"Location": location}


def event_lines(event: Event | None) -> str:
    """One event in the format of the HTML standard, 9.2.6; a comment as a sign of life."""
    if event is None:
        return ": still here\n\n"
    data: dict[str, Any] = {}
    if event.name == "status" and event.status is not None:
        data = {"status": event.status.value}
    elif event.name == "delta":
        data = {"text": event.text}
    elif event.message is not None:
        data = {"message": MessageOut().dump(event.message)}
    lines = [f"event: {event.name}", f"data: {json.dumps(data)}"]
    lines += [f"id: {event.place}"] if event.place else []
    lines += [f"retry: {RECONNECT_MS}"] if event.name == "reconnect" else []
    return "\n".join(lines) + "\n\n"
