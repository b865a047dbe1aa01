"""Requests and responses of the message routes, their examples, and the form of a stream's events."""

from typing import Any

import marshmallow as ma

from app.chatrooms.models import ErrorCode, Message, Role, Status
from app.chatrooms.schemas import ChatroomOut, KeyHeaders
from app.core import fields
from app.core.api import example_of
from app.core.schemas import NEXT_CURSOR, PageQuery, Schema
from app.generation.state import is_refundable
from app.integrations.gemini.client import FinishReason

STREAM = {"type": "string", "description": "Server-Sent Events (HTML standard, 9.2), each a `StreamEvent`."}
# One such event. Its data is text, as the format requires, and the text is JSON.
STREAM_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "One Server-Sent Event of a reply's stream.",
    "required": ["event", "data"],
    "properties": {
        "event": {
            "type": "string",
            "enum": ["status", "context", "delta", "reset", "completed", "failed", "canceled", "reconnect"],
            "description": "What happened.",
        },
        "id": {"type": "string", "description": "`attempt:characters so far`, for `Last-Event-ID`."},
        "retry": {"type": "integer", "description": "Milliseconds after which to reconnect; with `reconnect`."},
        "data": {
            "type": "string",
            "description": "JSON that matches `contentSchema`.",
            "contentMediaType": "application/json",
            "contentSchema": {
                "type": "object",
                "description": "`{}` with `reset` and `reconnect`.",
                "properties": {
                    "status": {"type": "string", "description": "With `status`."},
                    "messages_sent": {"type": "integer", "description": "With `context`."},
                    "messages_omitted": {"type": "integer", "description": "With `context`."},
                    "text": {"type": "string", "description": "With `delta`: the next piece."},
                    "message": {"$ref": "#/components/schemas/MessageOut"},
                },
            },
        },
    },
}


EXAMPLE_EVENTS = """\
event: status
data: {"status": "generating"}

event: context
data: {"messages_sent": 5, "messages_omitted": 12}

event: delta
data: {"text": "DNS is "}
id: 1:7

event: delta
data: {"text": "the phone book…"}
id: 1:22

event: completed
data: {"message": {"id": "…", "status": "completed", "text": "DNS is the phone book…"}}
id: 1:22

"""


ERROR_SENTENCES = {
    ErrorCode.MODEL_UNAVAILABLE: "Gemini did not answer.",
    ErrorCode.MODEL_TIMEOUT: "Gemini took too long.",
    ErrorCode.BLOCKED_BY_SAFETY: "Gemini's safety rules blocked the prompt or the answer.",
    ErrorCode.MODEL_REJECTED: "Gemini refused the request.",
    ErrorCode.EMPTY_REPLY: "Gemini answered without any text.",
    ErrorCode.OUTPUT_LIMIT: "Gemini reached its output limit while it was still thinking.",
}


class PromptIn(Schema):
    """A prompt."""

    text = fields.Text(
        "The prompt, 1–8000 characters after trimming.",
        required=True,
        max_chars=8_000,
        example="Explain DNS to a child",
    )
    stream = fields.JsonBoolean("Whether the reply is streamed piece by piece.", load_default=False, example=False)


class PromptHeaders(KeyHeaders):
    """Headers that change how a prompt is taken."""

    prefer = fields.String(
        "`wait=N`: wait up to N seconds (20 at most) for the reply.",
        data_key="Prefer",
        load_default="",
        example="wait=10",
    )


class HistoryQuery(PageQuery):
    """Which of a room's messages to list."""

    superseded = fields.String(
        "Whether superseded messages are listed too.",
        load_default="exclude",
        validate=ma.validate.OneOf(["exclude", "include"]),
    )


class StreamHeaders(ma.Schema):
    """Where to resume."""

    last_event_id = fields.String(
        "The `id` of the last event that arrived, such as `1:42`; anything else is ignored.",
        data_key="Last-Event-ID",
        load_default="",
    )


class ErrorOut(Schema):
    """Why a reply failed."""

    code = fields.Choice("What went wrong, for programs.", ErrorCode)
    message = fields.String("What went wrong, for people.")


class TokensUsedOut(Schema):
    """What a reply took, in Gemini's tokens."""

    prompt_tokens = fields.Integer("Tokens of the conversation sent.", example=12)
    output_tokens = fields.Integer("Tokens of the reply's text.", example=48)
    thinking_tokens = fields.Integer("Tokens of thinking, which Google bills as output.", example=130)
    cached_tokens = fields.Integer("Those of the prompt's tokens that Google had in its cache.", example=0)
    total_tokens = fields.Integer("Prompt, output and thinking together.", example=190)


TOKEN_COUNTS = tuple(TokensUsedOut().fields)


class ContextOut(Schema):
    """How much of its chatroom a reply is based on."""

    messages_sent = fields.Integer("Messages sent to Gemini, the prompt included.", example=1)
    messages_omitted = fields.Integer(
        "Earlier messages left out: those without an answer, and those that did not fit.", example=0
    )


class MessageOut(Schema):
    """A prompt or a reply."""

    id = fields.UUID("The message's id.", example="0192d3a4-7101-7a2b-8c3d-2123456789ab")
    chatroom_id = fields.UUID("Its chatroom.", example="0192d3a4-6b00-7c3f-8a55-0123456789ab")
    role = fields.Choice("`user` for a prompt, `model` for a reply.", Role, example="model")
    text = fields.String(
        "The text. Of a reply: null until it has completed. If it was canceled, what was written by then, which a "
        "retry keeps until the new text is there.",
        allow_none=True,
        example="DNS is the phone book of the internet…",
    )
    status = fields.Choice(
        "Of a reply: queued → generating → completed, failed or canceled.", Status, example="completed"
    )
    finish_reason = fields.Choice(
        "Of a completed reply: `stop`, `max_tokens` (cut off at the output limit) or `time_limit` "
        "(cut off when its time was up); otherwise null.",
        FinishReason,
        allow_none=True,
        example="stop",
    )
    error = fields.Preserialized("Why a reply failed; otherwise null.", ErrorOut, allow_none=True, example=None)
    model = fields.String("The model that replied.", allow_none=True, example="gemini-3.5-flash")
    usage = fields.Preserialized("What a reply took; null until it is known.", TokensUsedOut, allow_none=True)
    context = fields.Preserialized(
        "What a reply is based on; null until Gemini was asked.", ContextOut, allow_none=True
    )
    superseded = fields.Boolean("Whether an edit or a new reply has replaced it or a turn before it.", example=False)
    in_reply_to = fields.UUID(
        "Of a reply: the prompt's id.", allow_none=True, example="0192d3a4-7100-7d11-b0c1-1123456789ab"
    )
    created_at = fields.Timestamp("When the prompt was accepted.", example="2026-11-21T09:32:00.000000Z")
    completed_at = fields.Timestamp(
        "When the message reached its final state.", allow_none=True, example="2026-11-21T09:32:02.000000Z"
    )

    def get_attribute(self, obj: Message, attr: str, default: Any) -> Any:
        if attr == "error":
            code = obj.error_code
            return None if code is None else {"code": code, "message": error_sentence(obj, code)}
        if attr == "usage":
            return None if obj.total_tokens is None else {name: getattr(obj, name) for name in TOKEN_COUNTS}
        if attr == "context":
            return obj.context and vars(obj.context)
        return super().get_attribute(obj, attr, default)


EXAMPLE_REPLY = example_of(MessageOut())
UNANSWERED = dict.fromkeys(("finish_reason", "model", "usage", "context"))  # null in a prompt and in a queued reply
EXAMPLE_QUEUED = EXAMPLE_REPLY | UNANSWERED | {"text": None, "status": "queued", "completed_at": None}
EXAMPLE_PROMPT = EXAMPLE_REPLY | {
    "id": EXAMPLE_REPLY["in_reply_to"],
    "role": "user",
    "text": "Explain DNS to a child",
    "in_reply_to": None,
    "completed_at": EXAMPLE_REPLY["created_at"],
    **UNANSWERED,
}


def error_sentence(reply: Message, code: ErrorCode) -> str:
    """Return why a reply failed, for people, and that its prompt was refunded if it was."""
    refunded = is_refundable(code, passed_on=reply.passed_on)
    return ERROR_SENTENCES[code] + (" The prompt was refunded." if refunded else "")


class AcceptedOut(Schema):
    """A prompt that was accepted, and its reply."""

    message = ma.fields.Nested(MessageOut)
    reply = ma.fields.Nested(MessageOut)


class MessagePageOut(Schema):
    """A part of a chatroom's messages."""

    items = ma.fields.List(ma.fields.Nested(MessageOut))
    next_cursor = NEXT_CURSOR


class ChatroomWithMessagesOut(ChatroomOut):
    """A chatroom with its latest messages."""

    messages = fields.List(
        "The latest 50, oldest first.", ma.fields.Nested(MessageOut), example=[EXAMPLE_PROMPT, EXAMPLE_REPLY]
    )
    next_cursor = fields.String(
        "The `cursor` of `…/messages` for the older ones; null when there are none.", allow_none=True, example=None
    )
