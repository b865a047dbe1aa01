"""What the routes of messages share."""

from typing import Any

from app.core.api import Blueprint

blp = Blueprint(
    "messages",
    __name__,
    url_prefix="/chatroom/<id:chatroom_id>",
    description="Send prompts; read, follow, cancel and retry replies.",
)


def header(description: str, kind: str = "string") -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


QUOTA_HEADERS = {
    "RateLimit-Limit": header("Prompts a day; Basic only.", "integer"),
    "RateLimit-Remaining": header("Prompts left today; Basic only.", "integer"),
    "RateLimit-Reset": header("Seconds until midnight UTC; Basic only.", "integer"),
}
