"""Routes of the sessions that logins begin."""

from uuid import UUID

from flask.views import MethodView

from app.auth import sessions
from app.auth.schemas import EXAMPLE_SESSION, EXAMPLE_TOKENS, SessionsOut, TokensOut
from app.core.api import Blueprint
from app.core.auth import current_rotation_id, current_session_id, current_user_id
from app.core.clock import utc_now
from app.core.errors import NotFound

blp = Blueprint("sessions", __name__, url_prefix="/auth", description="Refresh tokens; see and end logins.")


@blp.route("/refresh")
class Refresh(MethodView):
    @blp.authenticated(refresh=True)
    @blp.response(200, TokensOut, example=EXAMPLE_TOKENS)
    def post(self) -> object:
        """Trade a refresh token for new tokens

        Send the refresh token as the bearer. It works once; again within 10 seconds it still answers, for
        clients that refresh in parallel; later it ends its whole session, for somebody must have stolen it."""
        return sessions.refresh(current_user_id(), current_session_id(), current_rotation_id(), now=utc_now())


@blp.route("/logout")
class Logout(MethodView):
    @blp.authenticated()
    @blp.response(204)
    def post(self) -> None:
        """Log out

        This session's access and refresh tokens stop working."""
        sessions.end_session(current_user_id(), current_session_id(), now=utc_now())


@blp.route("/sessions")
class Sessions(MethodView):
    @blp.authenticated()
    @blp.response(200, SessionsOut, example={"items": [EXAMPLE_SESSION]})
    def get(self) -> object:
        """List your sessions

        Where each login came from, since when it is there, and when it was last used."""
        return {"items": sessions.list_sessions(current_user_id(), current_session_id(), now=utc_now())}


@blp.route("/sessions/<id:session_id>")
class SessionItem(MethodView):
    @blp.authenticated()
    @blp.response(204)
    @blp.errors(NotFound)
    def delete(self, session_id: UUID) -> None:
        """End a session

        Its tokens stop working."""
        sessions.end_session(current_user_id(), session_id, now=utc_now())
