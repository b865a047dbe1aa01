"""What the API's description shows of messages: examples, and the form of a stream's events."""

from typing import Any

from app.chatrooms.schemas import EXAMPLE_CHATROOM

# One Server-Sent Event of a reply's stream. Its data is text, as the format has it, and JSON inside.
STREAM_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "One Server-Sent Event of a reply's stream.",
    "required": ["event", "data"],
    "properties": {
        "event": {
            "type": "string",
            "enum": ["status", "delta", "reset", "completed", "failed", "canceled", "reconnect"],
            "description": "What happened.",
        },
        "id": {"type": "string", "description": "`attempt:characters so far`, for `Last-Event-ID`."},
        "retry": {"type": "integer", "description": "Milliseconds after which to come back; with `reconnect`."},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {
                "type": "object",
                "description": "`{}` with `reset` and `reconnect`.",
                "properties": {
                    "status": {"type": "string", "description": "With `status`."},
                    "text": {"type": "string", "description": "With `delta`: the next piece."},
                    "message": {"$ref": "#/components/schemas/MessageOut"},
                },
            },
        },
    },
}


EXAMPLE_PROMPT: dict[str, Any] = {
    "id": "0192d3a4-7100-7d11-b0c1-1123456789ab",
    "chatroom_id": EXAMPLE_CHATROOM["id"],
    "role": "user",
    "text": "Explain DNS to a child",
    "status": "completed",
    "error": None,
    "model": None,
    "usage": None,
    "in_reply_to": None,
    "created_at": "2026-11-21T09:32:00.000000Z",
    "completed_at": "2026-11-21T09:32:00.000000Z",
}
EXAMPLE_QUEUED: dict[str, Any] = EXAMPLE_PROMPT | {
    "id": "0192d3a4-7101-7a2b-8c3d-2123456789ab",
    "role": "model",
    "text": None,
    "status": "queued",
    "in_reply_to": EXAMPLE_PROMPT["id"],
    "completed_at": None,
}
EXAMPLE_REPLY: dict[str, Any] = EXAMPLE_QUEUED | {
    "text": "DNS is the phone book of the internet…",
    "status": "completed",
    "model": "gemini-3.5-flash",
    "usage": {"prompt_tokens": 12, "output_tokens": 48},
    "completed_at": "2026-11-21T09:32:02.000000Z",
}
EXAMPLE_EVENTS = """\
event: status
data: {"status": "generating"}

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
