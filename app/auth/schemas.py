"""Requests and responses of the auth routes."""

from typing import Any

import marshmallow as ma

from app.auth.passwords import MAX_CHARS, MIN_CHARS
from app.core.schemas import Schema, Text
from app.users.mobile_numbers import MobileNumber
from app.users.profiles import UserOut

MAX_NAME_CHARS = 100


class Name(Text):
    """What to call a user."""

    def __init__(self, **kwargs: Any) -> None:
        metadata = {"description": "What to call the user, 1–100 characters.", "example": "Ada"}
        super().__init__(max_chars=MAX_NAME_CHARS, allow_none=True, metadata=metadata, **kwargs)


class SignupIn(Schema):
    """A claim to a number."""

    mobile = MobileNumber(required=True)
    name = Name(load_default=None)
    password = Text(
        min_chars=MIN_CHARS,
        max_chars=MAX_CHARS,
        trim=False,
        load_default=None,
        allow_none=True,
        load_only=True,
        metadata={
            "description": "Optional, 8–128 characters; takes effect when the number is first verified.",
            "example": "correct horse battery staple",
            "format": "password",
        },
    )


class MobileIn(Schema):
    """A number."""

    mobile = MobileNumber(required=True)


class VerifyIn(Schema):
    """A number and the code that was sent to it."""

    mobile = MobileNumber(required=True)
    otp = Text(
        required=True,
        max_chars=16,
        metadata={"description": "The code, six digits.", "example": "294817"},
    )


class SentCodeOut(Schema):
    """A code is on its way."""

    mobile = ma.fields.String(metadata={"description": "The number in E.164."})
    expires_in = ma.fields.Integer(metadata={"description": "Seconds the code is good for."})
    resend_in = ma.fields.Integer(metadata={"description": "Seconds until another one may be asked for."})
    otp = ma.fields.String(metadata={"description": "The code; only with `OTP_DELIVERY=response`."})

    @ma.post_dump
    def leave_out_what_was_sent_elsewhere(self, data: dict[str, object], **_: object) -> dict[str, object]:
        return {name: value for name, value in data.items() if value is not None}


class TokensOut(Schema):
    """A login."""

    access_token = ma.fields.String(metadata={"description": "For `Authorization: Bearer …`."})
    refresh_token = ma.fields.String(metadata={"description": "For new tokens; works once."})
    token_type = ma.fields.String(metadata={"description": "Always `Bearer`."})
    expires_in = ma.fields.Integer(metadata={"description": "Seconds the access token is good for."})
    user = ma.fields.Nested(UserOut)


EXAMPLE_SENT = {"mobile": "+14155552671", "expires_in": 300, "resend_in": 60, "otp": "294817"}
