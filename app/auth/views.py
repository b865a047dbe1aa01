"""Routes of signing up, logging in, passwords and sessions."""

from typing import Any
from uuid import UUID

from flask.views import MethodView

from app.auth import errors, passwords, schemas, service, sessions
from app.auth.models import Purpose
from app.auth.throttles import AUTH_REQUESTS, CODES_SENT
from app.core.api import Blueprint
from app.core.auth import current_refresh_jti, current_session_id, current_user_id
from app.core.clock import utc_now
from app.core.errors import NotFound
from app.core.http import current_client

blp = Blueprint("auth", __name__, url_prefix="/auth", description="Sign up, verify the number, get tokens.")
sessions_blp = Blueprint("sessions", __name__, url_prefix="/auth", description="Refresh tokens; see and end logins.")


@blp.route("/signup")
class Signup(MethodView):
    @blp.public("signUp", AUTH_REQUESTS)
    @blp.arguments(schemas.SignupIn)
    @blp.response(201, schemas.UserOut)
    @blp.errors(errors.AccountExists)
    def post(self, body: dict[str, Any]) -> object:
        """Sign up with a mobile number

        The account works once the number is verified: request a code with `/auth/send-otp` and exchange it for
        tokens with `/auth/verify-otp`. A number that was never verified can be signed up again; that replaces
        the earlier signup. There is no password yet: `/auth/change-password` sets one after the first login."""
        return service.sign_up(body["mobile"], name=body["name"], now=utc_now())


@blp.route("/send-otp")
class SendOtp(MethodView):
    @blp.public("sendOtp", AUTH_REQUESTS, CODES_SENT)
    @blp.arguments(schemas.MobileIn)
    @blp.response(202, schemas.SentCodeOut)
    @blp.errors(errors.OtpCooldown, errors.OtpLocked)
    def post(self, body: dict[str, Any]) -> object:
        """Send a one-time code

        The answer is the same for known and unknown numbers. A new code ends the previous one."""
        return service.send_code(body["mobile"], Purpose.LOGIN, now=utc_now())


@blp.route("/verify-otp")
class VerifyOtp(MethodView):
    @blp.public("verifyOtp", AUTH_REQUESTS)
    @blp.arguments(schemas.VerifyIn)
    @blp.response(200, schemas.TokensOut)
    @blp.errors(errors.OtpInvalid, errors.OtpLocked, errors.AccountNotFound)
    def post(self, body: dict[str, Any]) -> object:
        """Exchange a code for tokens

        A code works once, and five wrong guesses end it. The first right one verifies the number."""
        return service.verify_login_code(body["mobile"], body["otp"], current_client(), now=utc_now())


@blp.route("/login")
class Login(MethodView):
    @blp.public("logIn", AUTH_REQUESTS)
    @blp.arguments(schemas.LoginIn)
    @blp.response(200, schemas.TokensOut)
    @blp.errors(errors.InvalidCredentials)
    def post(self, body: dict[str, Any]) -> object:
        """Log in with a password

        After ten wrong passwords within 15 minutes, passwords are refused until that time is over; codes still work."""
        return service.log_in(body["mobile"], body["password"], current_client(), now=utc_now())


@blp.route("/forgot-password")
class ForgotPassword(MethodView):
    @blp.public("forgotPassword", AUTH_REQUESTS, CODES_SENT)
    @blp.arguments(schemas.MobileIn)
    @blp.response(202, schemas.SentCodeOut)
    @blp.errors(errors.OtpCooldown, errors.OtpLocked)
    def post(self, body: dict[str, Any]) -> object:
        """Send a code for a new password

        The code works only with `/auth/reset-password`. The answer is the same for known and unknown numbers."""
        return service.send_code(body["mobile"], Purpose.RESET_PASSWORD, now=utc_now())


@blp.route("/reset-password")
class ResetPassword(MethodView):
    @blp.public("resetPassword", AUTH_REQUESTS)
    @blp.arguments(schemas.ResetPasswordIn)
    @blp.response(204)
    @blp.errors(errors.OtpInvalid, errors.OtpLocked, errors.AccountNotFound)
    def post(self, body: dict[str, Any]) -> None:
        """Set a password with a code

        Every earlier token of the user stops working."""
        passwords.reset_password(**body, client=current_client(), now=utc_now())


@blp.route("/change-password")
class ChangePassword(MethodView):
    @blp.authenticated("changePassword")
    @blp.arguments(schemas.ChangePasswordIn)
    @blp.response(200, schemas.TokensOut)
    @blp.errors(errors.WrongPassword)
    def post(self, body: dict[str, Any]) -> object:
        """Set or change your password

        Every earlier token stops working; the answer has new ones."""
        session_id = current_session_id()
        return passwords.change_password(current_user_id(), session_id, **body, client=current_client(), now=utc_now())


@blp.route("/change-mobile")
class ChangeMobile(MethodView):
    @blp.authenticated("sendChangeCodes", CODES_SENT, CODES_SENT)  # it sends two
    @blp.arguments(schemas.NewMobileIn)
    @blp.response(202, schemas.SentCodesOut)
    @blp.errors(errors.OtpCooldown, errors.OtpLocked)
    def post(self, body: dict[str, Any]) -> object:
        """Send codes for a new number

        One to the new number, one to the current one. The answer does not say whether the new one is taken."""
        return service.send_change_codes(current_user_id(), body["new_mobile"], now=utc_now())


@blp.route("/change-mobile/verify")
class ChangeMobileVerify(MethodView):
    @blp.authenticated("changeMobile", AUTH_REQUESTS)
    @blp.arguments(schemas.ChangeMobileIn)
    @blp.response(200, schemas.TokensOut)
    @blp.errors(errors.OtpInvalid, errors.OtpLocked, errors.WrongPassword, errors.AccountExists)
    def post(self, body: dict[str, Any]) -> object:
        """Change your number

        Send the new number's code and, as a second proof, the password or the current number's code. Chatrooms, Pro and
        the day's spent prompts stay yours. Every earlier token stops working; the answer has new ones."""
        return service.change_mobile(
            current_user_id(), current_session_id(), **body, client=current_client(), now=utc_now()
        )


@sessions_blp.route("/refresh")
class Refresh(MethodView):
    @sessions_blp.authenticated("refreshTokens", refresh=True)
    @sessions_blp.response(200, schemas.TokensOut)
    def post(self) -> object:
        """Exchange a refresh token for new tokens

        Send the refresh token as the bearer token. It works once, and for 10 seconds after that for clients that
        refresh in parallel. If it is used again later, its whole session ends, because it must have been stolen."""
        return sessions.refresh(
            current_user_id(), current_session_id(), current_refresh_jti(), current_client(), now=utc_now()
        )


@sessions_blp.route("/logout")
class Logout(MethodView):
    @sessions_blp.authenticated("logOut")
    @sessions_blp.response(204)
    def post(self) -> None:
        """Log out

        This session's access and refresh tokens stop working."""
        sessions.end_session(current_user_id(), current_session_id(), now=utc_now())


@sessions_blp.route("/sessions")
class Sessions(MethodView):
    @sessions_blp.authenticated("listSessions")
    @sessions_blp.response(200, schemas.SessionsOut)
    def get(self) -> object:
        """List your sessions

        Shows where each login came from, when it began, and when it was last used. At most 100 are active: one more
        login ends the session that was used longest ago."""
        return {"items": sessions.list_sessions(current_user_id(), current_session_id(), now=utc_now())}


@sessions_blp.route("/sessions/<id:session_id>")
class SessionItem(MethodView):
    @sessions_blp.authenticated("endSession")
    @sessions_blp.response(204)
    @sessions_blp.errors(NotFound)
    def delete(self, session_id: UUID) -> None:
        """End a session

        Its tokens stop working."""
        sessions.end_session(current_user_id(), session_id, revoked_by=current_client(), now=utc_now())
