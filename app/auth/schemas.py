"""Requests and responses of the auth routes."""

from typing import Any

import marshmallow as ma

from app.auth.models import EventType
from app.auth.passwords import MAX_CHARS, MIN_CHARS, common_passwords
from app.core import fields
from app.core.auth import Scope
from app.core.schemas import NEXT_CURSOR, Schema
from app.users.service import is_personal_number, is_served, to_e164

MAX_NAME_CHARS = 100
MAX_CODE_CHARS = 16
MAX_MOBILE_CHARS = 32  # with spaces, brackets and the like


class MobileNumber(fields.Text):
    """A mobile number with its country code, as E.164."""

    def __init__(self, **kwargs: Any) -> None:
        description = "A mobile number with its country code, in any international spelling."
        super().__init__(description, max_chars=MAX_MOBILE_CHARS, example="+1 415 555 2671", **kwargs)

    def _deserialize(self, *args: Any, **kwargs: Any) -> str:
        number = to_e164(super()._deserialize(*args, **kwargs))
        if number is None:
            raise ma.ValidationError("Not a valid mobile number; start with + and the country code.")
        return number


def check_served(mobile: str) -> None:
    """Refuse a number whose country or type gets no codes: the defence against SMS pumping."""
    if not is_served(mobile):
        raise ma.ValidationError("Numbers of this country are not supported.")
    if not is_personal_number(mobile):
        raise ma.ValidationError("Codes are not sent to numbers of this kind; use a mobile number.")


class Name(fields.Text):
    """A user's name."""

    def __init__(self, **kwargs: Any) -> None:
        description = "The user's name, 1–100 characters."
        super().__init__(description, max_chars=MAX_NAME_CHARS, allow_none=True, example="Ada", **kwargs)


class Password(fields.Text):
    """An existing password."""

    def __init__(self, description: str, **kwargs: Any) -> None:
        kwargs |= {"example": "correct horse battery staple", "metadata": {"format": "password"}}
        super().__init__(description, max_chars=MAX_CHARS, trim=False, load_only=True, **kwargs)


def refuse_common(password: str) -> None:
    """Refuse the most common passwords, in any case."""
    if password.casefold() in common_passwords():
        raise ma.ValidationError("This password is one of the first that an attacker tries. Choose another one.")


NEW_PASSWORD = Password(
    "8–128 characters; the most common passwords and your own number are refused.",
    required=True,
    min_chars=MIN_CHARS,
    validate=refuse_common,
)
CODE = fields.Text("The code, six digits.", required=True, max_chars=MAX_CODE_CHARS, example="294817")
END_API_KEYS = fields.JsonBoolean("Whether your API keys stop working too.", load_default=False)


class MobileIn(Schema):
    """A number."""

    mobile = MobileNumber(required=True, validate=check_served)


class SignupIn(MobileIn):
    """A number to sign up, without a password, because it is not verified yet."""

    name = Name(load_default=None)


class VerifyIn(Schema):
    """A number and the code that was sent to it."""

    mobile = MobileNumber(required=True)
    otp = CODE


class LoginIn(Schema):
    """A number and its password."""

    mobile = MobileNumber(required=True)
    password = Password("The password.", required=True)


class ChangePasswordIn(Schema):
    """A new password, and the one that is set now."""

    new_password = NEW_PASSWORD
    current_password = Password("The current password; required if one is set.", load_default=None, allow_none=True)
    end_api_keys = END_API_KEYS


class ResetPasswordIn(VerifyIn):
    """A number, the code that was sent to it for this, and a new password."""

    new_password = NEW_PASSWORD
    end_api_keys = END_API_KEYS


class NewMobileIn(Schema):
    """Another number."""

    new_mobile = MobileNumber(required=True, validate=check_served)


class ChangeMobileIn(Schema):
    """Another number, the code that was sent to it, and one more proof."""

    new_mobile = MobileNumber(required=True)
    otp = CODE
    current_password = Password("The password; send either it or `current_otp`.", load_default=None, allow_none=True)
    current_otp = fields.Text(  # no example: the body's would then show both proofs
        "The code that was sent to the current number, six digits.",
        load_default=None,
        allow_none=True,
        max_chars=MAX_CODE_CHARS,
    )

    @ma.validates_schema(skip_on_field_errors=True)
    def require_one_proof(self, data: dict[str, Any], **_: Any) -> None:
        if (data["current_password"] is None) is (data["current_otp"] is None):
            raise ma.ValidationError({"current_password": ["Send either this or `current_otp`."]})


class SentCodeOut(Schema):
    """A code is on its way."""

    mobile = fields.String("The number in E.164.", example="+14155552671")
    expires_in = fields.Integer("Seconds for which the code is valid.", example=300)
    resend_in = fields.Integer("Seconds until another code can be requested.", example=60)
    otp = fields.String("The code; only with `OTP_DELIVERY=response`.", example="294817")

    @ma.post_dump
    def omit_missing_otp(self, data: dict[str, object], **_: object) -> dict[str, object]:
        return {name: value for name, value in data.items() if value is not None}


class SentCodesOut(SentCodeOut):
    """Codes are on their way, to a new number and to the current one."""

    current_otp = fields.String("The code for the current number; only with `OTP_DELIVERY=response`.", example="530166")


class UserOut(Schema):
    """A user."""

    id = fields.UUID("The user's id.", example="0192d3a4-5b6c-7d8e-9f01-23456789abcd")
    mobile = fields.String("The number in E.164.", example="+14155552671")
    name = fields.String("The user's name; may be null.", allow_none=True, example="Ada")
    tier = fields.String("The tier as of this request.", validate=ma.validate.OneOf(["basic", "pro"]), example="basic")
    has_password = fields.Boolean("Whether a password is set.", example=False)
    created_at = fields.Timestamp("When the user signed up.", example="2026-11-21T09:30:00.000000Z")


class TokensOut(Schema):
    """The tokens of a login, and whose they are."""

    access_token = fields.String("For `Authorization: Bearer …`.", example="eyJhbGciOi…")
    refresh_token = fields.String("Get new tokens with it; works once.", example="eyJhbGciOi…")
    token_type = fields.String("Always `Bearer`.", example="Bearer")
    expires_in = fields.Integer("Seconds for which the access token is valid.", example=86_400)
    user = ma.fields.Nested(UserOut)


class SessionOut(Schema):
    """An active session."""

    id = fields.UUID("The session's id.", example="0192d3a4-6a00-7b1c-9d22-3123456789ab")
    current = fields.Boolean("Whether this request uses it.", example=True)
    created_at = fields.Timestamp("When it began.", example="2026-11-21T09:30:30.000000Z")
    last_used_at = fields.Timestamp(
        "When it was last used, to within five minutes.", example="2026-11-21T09:41:00.000000Z"
    )
    ip = fields.String("The address that it was opened from.", allow_none=True, example="203.0.113.7")
    user_agent = fields.String("The program that it was opened in.", allow_none=True, example="curl/8.5.0")


class SessionsOut(Schema):
    """A user's active sessions."""

    items = fields.List("Most recently used first.", ma.fields.Nested(SessionOut))


class ApiKeyIn(Schema):
    """A key to make."""

    name = fields.Text("What the key is for.", required=True, max_chars=MAX_NAME_CHARS, example="CI")
    scopes = fields.List(
        "What the key may do.",
        ma.fields.Enum(Scope, by_value=ma.fields.String),
        required=True,
        validate=ma.validate.Length(min=1, max=len(Scope)),
        example=["chat:read", "chat:write"],
    )
    expires_in_days = fields.Integer(
        "Days until the key stops working; without this, it works until it is deleted.",
        strict=True,
        load_default=None,
        allow_none=True,
        validate=ma.validate.Range(min=1, max=3_660),
        example=90,
    )


class ApiKeyOut(Schema):
    """What is known about a key, without the key itself."""

    id = fields.UUID("The key's id.", example="0192d3a4-6a00-7a01-9b02-5123456789ab")
    name = fields.String("What it is for.", example="CI")
    scopes = fields.List(
        "What it may do.", ma.fields.Enum(Scope, by_value=ma.fields.String), example=["chat:read", "chat:write"]
    )
    prefix = fields.String("The beginning of the key, to recognize it by.", example="gbk_Zr3uYw1k")
    created_at = fields.Timestamp("When it was made.", example="2026-11-21T09:30:30.000000Z")
    expires_at = fields.Timestamp(
        "When it stops working; null: never.", allow_none=True, example="2027-02-19T09:30:30.000000Z"
    )
    last_used_at = fields.Timestamp(
        "When it was last used, to within five minutes; null: never.", allow_none=True, example=None
    )


class NewApiKeyOut(ApiKeyOut):
    """A key that was just made."""

    key = fields.String("For `Authorization: Bearer …`; shown only in this answer.", example="gbk_Zr3uYw1k…")


class ApiKeysOut(Schema):
    """A user's keys."""

    items = fields.List("The newest first.", ma.fields.Nested(ApiKeyOut))


class SecurityEventOut(Schema):
    """Something that happened to an account."""

    id = fields.UUID("The event's id.", example="0192d3a4-6a00-7c44-8a01-4123456789ab")
    type = fields.Choice(
        "`login_new_device`: a login from a network and a program that no login of the last 90 days had.",
        EventType,
        example="login_new_device",
    )
    created_at = fields.Timestamp("When it happened.", example="2026-11-21T09:30:30.000000Z")
    ip = fields.String("The address of the request that caused it.", allow_none=True, example="203.0.113.7")
    user_agent = fields.String("The program of that request.", allow_none=True, example="curl/8.5.0")


class SecurityEventsOut(Schema):
    """A page of what happened to an account."""

    items = fields.List("Newest first.", ma.fields.Nested(SecurityEventOut))
    next_cursor = NEXT_CURSOR
