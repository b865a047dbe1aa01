"""Routes of one's own account."""

from contextlib import ExitStack
from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import Response, request, stream_with_context

from app.account import service
from app.account.export import export, export_slot
from app.auth import schemas, sessions
from app.auth.errors import TooManyApiKeys
from app.auth.events import list_events
from app.billing.models import Tier
from app.billing.stripe_connection import PaymentProviderError
from app.chatrooms.schemas import ChatroomOut
from app.core import fields, settings
from app.core.api import Blueprint, header
from app.core.auth import Scope, current_session_id, current_user_id
from app.core.clock import utc_now
from app.core.errors import NotFound
from app.core.http import current_client
from app.core.schemas import InvalidCursor, PageQuery, Schema
from app.integrations.bounded_calls import BoundedCall
from app.messages.schemas import EXAMPLE_PROMPT, EXAMPLE_REPLY, MessageOut
from app.quota.ledger import usage_history
from app.quota.usage import QUOTA_HEADERS, quota_headers, usage_today

blp = Blueprint("user", __name__, url_prefix="/user", description="Your account: profile, usage, export, deletion.")

EXPORT_AS_FILE = {"Content-Disposition": 'attachment; filename="export.json"'}
EXAMPLE_GRANT = {
    "status": "granted",
    "reason": "Won at the fair",
    "created_at": "2026-11-21T09:30:00.000000Z",
    "ends_at": None,
    "revoked_at": None,
}


class ProfileIn(Schema):
    """What users may change about themselves."""

    name = schemas.Name(required=True)


class UsageOut(Schema):
    """The prompts of the day."""

    tier = fields.Choice("The tier as of this request.", Tier, example="basic")
    limit = fields.Integer("Prompts a day; null for Pro.", allow_none=True, example=5)
    used = fields.Integer("Prompts spent today.", example=2)
    remaining = fields.Integer("Prompts left today; null for Pro.", allow_none=True, example=3)
    resets_at = fields.Timestamp("When the day ends: the next midnight, UTC.", example="2026-11-22T00:00:00.000000Z")


class UsageQuery(Schema):
    """Which days, both included."""

    first = fields.Date(
        "The first day, UTC; default: 29 days before the last.",
        data_key="from",
        format="%Y-%m-%d",
        load_default=None,
        example="2026-11-01",
    )
    last = fields.Date(
        "The last day, UTC; default: today.", data_key="to", format="%Y-%m-%d", load_default=None, example="2026-11-21"
    )


class DayOfUsageOut(Schema):
    """The prompts of a day, and what their replies took in tokens."""

    date = fields.Date("The day, UTC.", example="2026-11-21")
    prompts = fields.Integer("Prompts spent.", example=3)
    prompt_tokens = fields.Integer("Tokens of the conversations sent.", example=420)
    output_tokens = fields.Integer("Tokens of the replies' texts.", example=180)
    thinking_tokens = fields.Integer("Tokens spent on thinking.", example=510)


class UsageHistoryOut(Schema):
    """A row a day, oldest first."""

    items = ma.fields.List(ma.fields.Nested(DayOfUsageOut))


class ExportedChatroomOut(ChatroomOut):
    """A chatroom with all its messages."""

    messages = fields.List(
        "All of them, oldest first.", ma.fields.Nested(MessageOut), example=[EXAMPLE_PROMPT, EXAMPLE_REPLY]
    )


class ExportOut(Schema):
    """A user's data. The usage of each day has a route of its own."""

    user = ma.fields.Nested(schemas.UserOut)
    subscriptions = fields.List(
        "Every subscription, and every grant of Pro.", ma.fields.Dict(keys=ma.fields.String()), example=[EXAMPLE_GRANT]
    )
    sessions = fields.List("Active sessions.", ma.fields.Nested(schemas.SessionOut))
    api_keys = fields.List("Active API keys.", ma.fields.Nested(schemas.ApiKeyOut))
    security_events = fields.List(
        "Those of the last 90 days, newest first.", ma.fields.Nested(schemas.SecurityEventOut)
    )
    chatrooms = fields.List("Oldest first.", ma.fields.Nested(ExportedChatroomOut))


@blp.get("/me")
@blp.authenticated("getProfile")
@blp.response(200, schemas.UserOut, conditional=True)
def get_profile() -> object:
    """Read your profile

    `tier` is as of this request."""
    return service.profile(current_user_id(), now=utc_now())


@blp.patch("/me")
@blp.authenticated("updateProfile")
@blp.arguments(ProfileIn)
@blp.response(200, schemas.UserOut)
def update_profile(body: dict[str, Any]) -> object:
    """Change your name

    `null` removes it."""
    return service.rename(current_user_id(), body["name"], now=utc_now())


@blp.delete("/me")
@blp.authenticated("deleteAccount")
@blp.response(204)
@blp.errors(PaymentProviderError)
def delete_account() -> None:
    """Delete your account

    It is gone at once with everything in it, its subscription is canceled, and the number can be signed up again.
    Today's prompts stay spent."""
    service.delete_account(current_user_id(), now=utc_now())


@blp.get("/me/export")
@blp.authenticated("exportAccount")
@blp.response(200, ExportOut, headers={"Content-Disposition": header("Suggests a file name.")})
def export_account() -> object:
    """Export your data

    Your account, chatrooms and messages, subscriptions, active sessions and keys, and security events, as one JSON
    document, streamed. One at a time; the connection is closed on an export that takes too long."""
    with ExitStack() as until_closed:
        slot = until_closed.enter_context(export_slot(current_user_id()))
        call = until_closed.enter_context(BoundedCall(settings().export_max_seconds))
        if connection := request.environ.get("gunicorn.socket"):  # only gunicorn shows it
            call.bind_socket(connection.fileno())
        pieces = export(current_user_id(), current_session_id(), slot, now=utc_now())
        response = Response(stream_with_context(pieces), mimetype="application/json", headers=EXPORT_AS_FILE)
        response.call_on_close(until_closed.pop_all().close)
    return response


@blp.get("/security-events")
@blp.authenticated("listSecurityEvents")
@blp.arguments(PageQuery, location="query")
@blp.response(200, schemas.SecurityEventsOut)
@blp.errors(InvalidCursor)
def list_security_events(query: dict[str, Any]) -> object:
    """See what happened to your account

    The last 90 days of logins, changes of the password or the number, ended sessions, API keys made and deleted,
    and signs of an intruder."""
    return list_events(current_user_id(), limit=query["limit"], cursor=query["cursor"], now=utc_now())


@blp.post("/api-keys")
@blp.authenticated("createApiKey")
@blp.arguments(schemas.ApiKeyIn)
@blp.response(201, schemas.NewApiKeyOut)
@blp.errors(TooManyApiKeys)
def create_api_key(body: dict[str, Any]) -> object:
    """Make an API key

    For programs, which send it as the bearer token. It reaches the routes of its scopes, and its requests count as
    yours. You can have ten. Only this answer has the key itself."""
    session_id = current_session_id()
    return sessions.create_key(current_user_id(), session_id, **body, client=current_client(), now=utc_now())


@blp.get("/api-keys")
@blp.authenticated("listApiKeys")
@blp.response(200, schemas.ApiKeysOut)
def list_api_keys() -> object:
    """List your API keys

    Those that work, without the keys themselves."""
    return {"items": sessions.list_keys(current_user_id(), now=utc_now())}


@blp.delete("/api-keys/<id:key_id>")
@blp.authenticated("deleteApiKey")
@blp.response(204)
@blp.errors(NotFound)
def delete_api_key(key_id: UUID) -> None:
    """Delete an API key

    It stops working at once."""
    sessions.revoke_key(current_user_id(), key_id, current_client(), now=utc_now())


@blp.get("/usage")
@blp.authenticated("getUsage", scope=Scope.CHAT_READ)
@blp.response(200, UsageOut, headers=QUOTA_HEADERS)
def get_usage() -> object:
    """See today's prompts

    How many are spent and left, and when the day ends."""
    usage = usage_today(current_user_id(), now=utc_now())
    return usage, 200, quota_headers(usage)


@blp.get("/usage/history")
@blp.authenticated("getUsageHistory")
@blp.arguments(UsageQuery, location="query")
@blp.response(200, UsageHistoryOut)
def get_usage_history(query: dict[str, Any]) -> object:
    """See what your prompts took

    A row for each day from `from` to `to`, 92 at most. Prompts of deleted chatrooms count,
    refunded ones do not."""
    return {"items": usage_history(current_user_id(), **query, now=utc_now())}
