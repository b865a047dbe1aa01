"""Routes of signing up and logging in."""

from typing import Any

from flask import request
from flask.views import MethodView

from app.auth import service
from app.auth.errors import AccountExists, AccountNotFound, OtpInvalid
from app.auth.schemas import EXAMPLE_SENT, MobileIn, SentCodeOut, SignupIn, TokensOut, VerifyIn
from app.auth.tokens import Client, session_lives
from app.core.api import Blueprint
from app.core.auth import check_sessions_with
from app.core.clock import utc_now
from app.users.profiles import EXAMPLE_USER, UserOut

EXAMPLE_TOKENS = {
    "access_token": "eyJhbGciOi…",
    "refresh_token": "eyJhbGciOi…",
    "token_type": "Bearer",
    "expires_in": 86_400,
    "user": EXAMPLE_USER,
}

check_sessions_with(session_lives)

blp = Blueprint("auth", __name__, url_prefix="/auth", description="Sign up, prove the number, get tokens.")


def client() -> Client:
    """Where the request comes from."""
    return Client(ip=request.remote_addr, user_agent=request.user_agent.string or None)


@blp.route("/signup")
class Signup(MethodView):
    @blp.public()
    @blp.arguments(SignupIn)
    @blp.response(201, UserOut, example=EXAMPLE_USER)
    @blp.errors(AccountExists)
    def post(self, body: dict[str, Any]) -> object:
        """Sign up with a mobile number

        Nothing counts until the number is verified: ask for a code with `/auth/send-otp` and trade it for
        tokens with `/auth/verify-otp`. A number that was never verified can be signed up again."""
        return service.sign_up(body["mobile"], name=body["name"], password=body["password"], now=utc_now())


@blp.route("/send-otp")
class SendOtp(MethodView):
    @blp.public()
    @blp.arguments(MobileIn)
    @blp.response(202, SentCodeOut, example=EXAMPLE_SENT)
    def post(self, body: dict[str, Any]) -> object:
        """Send a one-time code

        The answer is the same for known and unknown numbers. A new code ends the one before."""
        return service.send_login_code(body["mobile"], now=utc_now())


@blp.route("/verify-otp")
class VerifyOtp(MethodView):
    @blp.public()
    @blp.arguments(VerifyIn)
    @blp.response(200, TokensOut, example=EXAMPLE_TOKENS)
    @blp.errors(OtpInvalid, AccountNotFound)
    def post(self, body: dict[str, Any]) -> object:
        """Trade a code for tokens

        A code works once. The first one that is right verifies the number."""
        return service.verify_login_code(body["mobile"], body["otp"], client(), now=utc_now())
