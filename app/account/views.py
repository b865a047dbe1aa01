"""Routes of one's own account."""

from contextlib import ExitStack
from typing import Any
from uuid import UUID

from flask import Response, request, stream_with_context
from flask.views import MethodView

from app.account import service
from app.account.export import export, export_slot
from app.account.schemas import ExportOut, ProfileIn, UsageHistoryOut, UsageOut, UsageQuery
from app.auth import sessions
from app.auth.errors import TooManyApiKeys
from app.auth.events import list_events
from app.auth.schemas import ApiKeyIn, ApiKeysOut, NewApiKeyOut, SecurityEventsOut, UserOut
from app.billing.stripe_connection import PaymentProviderError
from app.core import settings
from app.core.api import Blueprint, header
from app.core.auth import Scope, current_session_id, current_user_id
from app.core.clock import utc_now
from app.core.errors import NotFound
from app.core.http import current_client
from app.core.schemas import InvalidCursor, PageQuery
from app.integrations.bounded_calls import BoundedCall
from app.quota.ledger import usage_history
from app.quota.usage import QUOTA_HEADERS, quota_headers, usage_today

blp = Blueprint("user", __name__, url_prefix="/user", description="Your account: profile, usage, export, deletion.")

EXPORT_AS_FILE = {"Content-Disposition": 'attachment; filename="export.json"'}


@blp.route("/me")
class Me(MethodView):
    @blp.authenticated("getProfile")
    @blp.response(200, UserOut, conditional=True)
    def get(self) -> object:
        """Read your profile

        `tier` is as of this request."""
        return service.profile(current_user_id(), now=utc_now())

    @blp.authenticated("updateProfile")
    @blp.arguments(ProfileIn)
    @blp.response(200, UserOut)
    def patch(self, body: dict[str, Any]) -> object:
        """Change your name

        `null` removes it."""
        return service.rename(current_user_id(), body["name"], now=utc_now())

    @blp.authenticated("deleteAccount")
    @blp.response(204)
    @blp.errors(PaymentProviderError)
    def delete(self) -> None:
        """Delete your account

        It is gone at once with everything in it, its subscription is canceled, and the number can be signed up again.
        Today's prompts stay spent."""
        service.delete_account(current_user_id(), now=utc_now())


@blp.route("/me/export")
class Export(MethodView):
    @blp.authenticated("exportAccount")
    @blp.response(200, ExportOut, headers={"Content-Disposition": header("Suggests a file name.")})
    def get(self) -> object:
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


@blp.route("/security-events")
class SecurityEvents(MethodView):
    @blp.authenticated("listSecurityEvents")
    @blp.arguments(PageQuery, location="query")
    @blp.response(200, SecurityEventsOut)
    @blp.errors(InvalidCursor)
    def get(self, query: dict[str, Any]) -> object:
        """See what happened to your account

        The last 90 days of logins, changes of the password or the number, ended sessions, API keys made and deleted,
        and signs of an intruder."""
        return list_events(current_user_id(), limit=query["limit"], cursor=query["cursor"], now=utc_now())


@blp.route("/api-keys")
class ApiKeys(MethodView):
    @blp.authenticated("createApiKey")
    @blp.arguments(ApiKeyIn)
    @blp.response(201, NewApiKeyOut)
    @blp.errors(TooManyApiKeys)
    def post(self, body: dict[str, Any]) -> object:
        """Make an API key

        For programs, which send it as the bearer token. It reaches the routes of its scopes, and its requests count as
        yours. You can have ten. Only this answer has the key itself."""
        session_id = current_session_id()
        return sessions.create_key(current_user_id(), session_id, **body, client=current_client(), now=utc_now())

    @blp.authenticated("listApiKeys")
    @blp.response(200, ApiKeysOut)
    def get(self) -> object:
        """List your API keys

        Those that work, without the keys themselves."""
        return {"items": sessions.list_keys(current_user_id(), now=utc_now())}


@blp.route("/api-keys/<id:key_id>")
class ApiKeyItem(MethodView):
    @blp.authenticated("deleteApiKey")
    @blp.response(204)
    @blp.errors(NotFound)
    def delete(self, key_id: UUID) -> None:
        """Delete an API key

        It stops working at once."""
        sessions.revoke_key(current_user_id(), key_id, current_client(), now=utc_now())


@blp.route("/usage")
class DailyUsage(MethodView):
    @blp.authenticated("getUsage", scope=Scope.CHAT_READ)
    @blp.response(200, UsageOut, headers=QUOTA_HEADERS)
    def get(self) -> object:
        """See today's prompts

        How many are spent and left, and when the day ends."""
        usage = usage_today(current_user_id(), now=utc_now())
        return usage, 200, quota_headers(usage)


@blp.route("/usage/history")
class UsageHistory(MethodView):
    @blp.authenticated("getUsageHistory")
    @blp.arguments(UsageQuery, location="query")
    @blp.response(200, UsageHistoryOut)
    def get(self, query: dict[str, Any]) -> object:
        """See what your prompts took

        A row for each day from `from` to `to`, 92 at most. Prompts of deleted chatrooms count,
        refunded ones do not."""
        return {"items": usage_history(current_user_id(), **query, now=utc_now())}
