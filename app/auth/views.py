"""Routes of signing up, logging in, passwords, sessions, and changing the number."""

from typing import Any
from uuid import UUID

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


@blp.post("/signup")
@blp.public("signUp", AUTH_REQUESTS)
@blp.arguments(schemas.SignupIn)
@blp.response(201, schemas.UserOut)
@blp.errors(errors.AccountExists)
def sign_up(body: dict[str, Any]) -> object:
    """Sign up with a mobile number

    The account works once the number is verified: request a code with `/auth/send-otp` and exchange it for
    tokens with `/auth/verify-otp`. A number that was never verified can be signed up again; that replaces
    the earlier signup. There is no password yet: `/auth/change-password` sets one after the first login."""
    return service.sign_up(body["mobile"], name=body["name"], now=utc_now())


@blp.post("/send-otp")
@blp.public("sendOtp", AUTH_REQUESTS, CODES_SENT)
@blp.arguments(schemas.MobileIn)
@blp.response(202, schemas.SentCodeOut)
@blp.errors(errors.OtpCooldown, errors.OtpLocked)
def send_otp(body: dict[str, Any]) -> object:
    """Send a one-time code

    The answer is the same for known and unknown numbers. A new code ends the previous one."""
    return service.send_code(body["mobile"], Purpose.LOGIN, now=utc_now())


@blp.post("/verify-otp")
@blp.public("verifyOtp", AUTH_REQUESTS)
@blp.arguments(schemas.VerifyIn)
@blp.response(200, schemas.TokensOut)
@blp.errors(errors.OtpInvalid, errors.OtpLocked, errors.AccountNotFound)
def verify_otp(body: dict[str, Any]) -> object:
    """Exchange a code for tokens

    A code works once, and five wrong guesses end it. The first right one verifies the number."""
    return service.verify_login_code(body["mobile"], body["otp"], current_client(), now=utc_now())


@blp.post("/login")
@blp.public("logIn", AUTH_REQUESTS)
@blp.arguments(schemas.LoginIn)
@blp.response(200, schemas.TokensOut)
@blp.errors(errors.InvalidCredentials)
def log_in(body: dict[str, Any]) -> object:
    """Log in with a password

    After ten wrong passwords within 15 minutes, passwords are refused until that time is over; codes still work."""
    return service.log_in(body["mobile"], body["password"], current_client(), now=utc_now())


@blp.post("/forgot-password")
@blp.public("forgotPassword", AUTH_REQUESTS, CODES_SENT)
@blp.arguments(schemas.MobileIn)
@blp.response(202, schemas.SentCodeOut)
@blp.errors(errors.OtpCooldown, errors.OtpLocked)
def forgot_password(body: dict[str, Any]) -> object:
    """Send a code for a new password

    The code works only with `/auth/reset-password`. The answer is the same for known and unknown numbers."""
    return service.send_code(body["mobile"], Purpose.RESET_PASSWORD, now=utc_now())


@blp.post("/reset-password")
@blp.public("resetPassword", AUTH_REQUESTS)
@blp.arguments(schemas.ResetPasswordIn)
@blp.response(204)
@blp.errors(errors.OtpInvalid, errors.OtpLocked, errors.AccountNotFound)
def reset_password(body: dict[str, Any]) -> None:
    """Set a password with a code

    Every earlier token of the user stops working."""
    passwords.reset_password(**body, client=current_client(), now=utc_now())


@blp.post("/change-password")
@blp.authenticated("changePassword")
@blp.arguments(schemas.ChangePasswordIn)
@blp.response(200, schemas.TokensOut)
@blp.errors(errors.WrongPassword)
def change_password(body: dict[str, Any]) -> object:
    """Set or change your password

    Every earlier token stops working; the answer has new ones."""
    session_id = current_session_id()
    return passwords.change_password(current_user_id(), session_id, **body, client=current_client(), now=utc_now())


@blp.post("/change-mobile")
@blp.authenticated("sendChangeCodes", CODES_SENT, CODES_SENT)  # it sends two
@blp.arguments(schemas.NewMobileIn)
@blp.response(202, schemas.SentCodesOut)
@blp.errors(errors.OtpCooldown, errors.OtpLocked)
def send_change_codes(body: dict[str, Any]) -> object:
    """Send codes for a new number

    One to the new number, one to the current one. The answer does not say whether the new one is taken."""
    return service.send_change_codes(current_user_id(), body["new_mobile"], now=utc_now())


@blp.post("/change-mobile/verify")
@blp.authenticated("changeMobile", AUTH_REQUESTS)
@blp.arguments(schemas.ChangeMobileIn)
@blp.response(200, schemas.TokensOut)
@blp.errors(errors.OtpInvalid, errors.OtpLocked, errors.WrongPassword, errors.AccountExists)
def change_mobile(body: dict[str, Any]) -> object:
    """Change your number

    Send the new number's code and, as a second proof, the password or the current number's code. Chatrooms, Pro and
    the day's spent prompts stay yours. Every earlier token stops working; the answer has new ones."""
    return service.change_mobile(
        current_user_id(), current_session_id(), **body, client=current_client(), now=utc_now()
    )


@sessions_blp.post("/refresh")
@sessions_blp.authenticated("refreshTokens", refresh=True)
@sessions_blp.response(200, schemas.TokensOut)
def refresh_tokens() -> object:
    """Exchange a refresh token for new tokens

    Send the refresh token as the bearer token. It works once, and for 10 seconds after that for clients that
    refresh in parallel. If it is used again later, its whole session ends, because it must have been stolen."""
    return sessions.refresh(
        current_user_id(), current_session_id(), current_refresh_jti(), current_client(), now=utc_now()
    )


@sessions_blp.post("/logout")
@sessions_blp.authenticated("logOut")
@sessions_blp.response(204)
def log_out() -> None:
    """Log out

    This session's access and refresh tokens stop working."""
    sessions.end_session(current_user_id(), current_session_id(), now=utc_now())


@sessions_blp.get("/sessions")
@sessions_blp.authenticated("listSessions")
@sessions_blp.response(200, schemas.SessionsOut)
def list_sessions() -> object:
    """List your sessions

    Shows where each login came from, when it began, and when it was last used. At most 100 are active: one more
    login ends the session that was used longest ago."""
    return {"items": sessions.list_sessions(current_user_id(), current_session_id(), now=utc_now())}


@sessions_blp.delete("/sessions/<id:session_id>")
@sessions_blp.authenticated("endSession")
@sessions_blp.response(204)
@sessions_blp.errors(NotFound)
def end_session(session_id: UUID) -> None:
    """End a session

    Its tokens stop working."""
    sessions.end_session(current_user_id(), session_id, revoked_by=current_client(), now=utc_now())
