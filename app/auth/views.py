"""Routes of signing up, logging in and passwords.

Routes of the sessions that logins begin.
"""

from typing import Any
from uuid import UUID

from flask import request
from flask.views import MethodView

from app.auth import passwords as password_changes
from app.auth import service, sessions
from app.auth.errors import (
    AccountExists,
    AccountNotFound,
    InvalidCredentials,
    OtpCooldown,
    OtpInvalid,
    OtpLocked,
    WrongPassword,
)
from app.auth.models import Purpose
from app.auth.schemas import (
    EXAMPLE_SENT,
    EXAMPLE_SESSION,
    EXAMPLE_TOKENS,
    ChangePasswordIn,
    LoginIn,
    MobileIn,
    ResetPasswordIn,
    SentCodeOut,
    SessionsOut,
    SignupIn,
    TokensOut,
    VerifyIn,
)
from app.auth.sessions import Client
from app.auth.throttles import AUTH_REQUESTS, CODES_SENT
from app.core.api import Blueprint
from app.core.auth import current_rotation_id, current_session_id, current_user_id
from app.core.clock import utc_now
from app.core.errors import NotFound
from app.core.limits import client_address
from app.users.profile import EXAMPLE_USER, UserOut

blp = Blueprint("auth", __name__, url_prefix="/auth", description="Sign up, prove the number, get tokens.")


def client() -> Client:
    """Where the request comes from."""
    return Client(ip=client_address(request.remote_addr), user_agent=request.user_agent.string or None)


@blp.route("/signup")
class Signup(MethodView):
    @blp.public(AUTH_REQUESTS)
    @blp.arguments(SignupIn)
    @blp.response(201, UserOut, example=EXAMPLE_USER)
    @blp.errors(AccountExists)
    def post(self, body: dict[str, Any]) -> object:
        """Sign up with a mobile number

        Nothing counts until the number is verified: ask for a code with `/auth/send-otp` and trade it for
        tokens with `/auth/verify-otp`. A number that was never verified can be signed up again; that replaces
        the earlier signup. There is no password yet: `/auth/change-password` sets one after the first login."""
        return service.sign_up(body["mobile"], name=body["name"], now=utc_now())


@blp.route("/send-otp")
class SendOtp(MethodView):
    @blp.public(AUTH_REQUESTS, CODES_SENT)
    @blp.arguments(MobileIn)
    @blp.response(202, SentCodeOut, example=EXAMPLE_SENT)
    @blp.errors(OtpCooldown, OtpLocked)
    def post(self, body: dict[str, Any]) -> object:
        """Send a one-time code

        The answer is the same for known and unknown numbers. A new code ends the one before."""
        return service.send_code(body["mobile"], Purpose.LOGIN, now=utc_now())


@blp.route("/verify-otp")
class VerifyOtp(MethodView):
    @blp.public(AUTH_REQUESTS)
    @blp.arguments(VerifyIn)
    @blp.response(200, TokensOut, example=EXAMPLE_TOKENS)
    @blp.errors(OtpInvalid, OtpLocked, AccountNotFound)
    def post(self, body: dict[str, Any]) -> object:
        """Trade a code for tokens

        A code works once, and five wrong guesses end it. The first one that is right verifies the number."""
        return service.verify_login_code(body["mobile"], body["otp"], client(), now=utc_now())


@blp.route("/login")
class Login(MethodView):
    @blp.public(AUTH_REQUESTS)
    @blp.arguments(LoginIn)
    @blp.response(200, TokensOut, example=EXAMPLE_TOKENS)
    @blp.errors(InvalidCredentials)
    def post(self, body: dict[str, Any]) -> object:
        """Log in with a password

        Ten wrong tries within a quarter of an hour close this way in for the rest of it; codes still work."""
        return service.log_in(body["mobile"], body["password"], client(), now=utc_now())


@blp.route("/forgot-password")
class ForgotPassword(MethodView):
    @blp.public(AUTH_REQUESTS, CODES_SENT)
    @blp.arguments(MobileIn)
    @blp.response(202, SentCodeOut, example=EXAMPLE_SENT)
    @blp.errors(OtpCooldown, OtpLocked)
    def post(self, body: dict[str, Any]) -> object:
        """Send a code for a new password

        It serves for `/auth/reset-password` alone. The answer is the same for known and unknown numbers."""
        return service.send_code(body["mobile"], Purpose.RESET_PASSWORD, now=utc_now())


@blp.route("/reset-password")
class ResetPassword(MethodView):
    @blp.public(AUTH_REQUESTS)
    @blp.arguments(ResetPasswordIn)
    @blp.response(204)
    @blp.errors(OtpInvalid, OtpLocked, AccountNotFound)
    def post(self, body: dict[str, Any]) -> None:
        """Set a password with a code

        Every earlier token of the user stops working."""
        password_changes.reset_password(body["mobile"], body["otp"], body["new_password"], now=utc_now())


@blp.route("/change-password")
class ChangePassword(MethodView):
    @blp.authenticated()
    @blp.arguments(ChangePasswordIn)
    @blp.response(200, TokensOut, example=EXAMPLE_TOKENS)
    @blp.errors(WrongPassword)
    def post(self, body: dict[str, Any]) -> object:
        """Set or change your password

        Every earlier token stops working; the answer has new ones."""
        return password_changes.change_password(
            current_user_id(),
            current=body["current_password"],
            new=body["new_password"],
            client=client(),
            now=utc_now(),
        )


sessions_blp = Blueprint("sessions", __name__, url_prefix="/auth", description="Refresh tokens; see and end logins.")


@sessions_blp.route("/refresh")
class Refresh(MethodView):
    @sessions_blp.authenticated(refresh=True)
    @sessions_blp.response(200, TokensOut, example=EXAMPLE_TOKENS)
    def post(self) -> object:
        """Trade a refresh token for new tokens

        Send the refresh token as the bearer. It works once; again within 10 seconds it still answers, for
        clients that refresh in parallel; later it ends its whole session, for somebody must have stolen it."""
        return sessions.refresh(current_user_id(), current_session_id(), current_rotation_id(), now=utc_now())


@sessions_blp.route("/logout")
class Logout(MethodView):
    @sessions_blp.authenticated()
    @sessions_blp.response(204)
    def post(self) -> None:
        """Log out

        This session's access and refresh tokens stop working."""
        sessions.end_session(current_user_id(), current_session_id(), now=utc_now())


@sessions_blp.route("/sessions")
class Sessions(MethodView):
    @sessions_blp.authenticated()
    @sessions_blp.response(200, SessionsOut, example={"items": [EXAMPLE_SESSION]})
    def get(self) -> object:
        """List your sessions

        Where each login came from, since when it is there, and when it was last used."""
        return {"items": sessions.list_sessions(current_user_id(), current_session_id(), now=utc_now())}


@sessions_blp.route("/sessions/<id:session_id>")
class SessionItem(MethodView):
    @sessions_blp.authenticated()
    @sessions_blp.response(204)
    @sessions_blp.errors(NotFound)
    def delete(self, session_id: UUID) -> None:
        """End a session

        Its tokens stop working."""
        sessions.end_session(current_user_id(), session_id, now=utc_now())
