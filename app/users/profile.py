"""The user's profile, as the API shows it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import marshmallow as ma

from app.core import fields
from app.core.schemas import Schema
from app.users.models import User


@dataclass(frozen=True)
class Profile:
    """The user's profile: what the row says, and the tier, which no row keeps.

    tier: as of the request.
    """

    id: UUID
    mobile: str
    name: str | None
    tier: str
    has_password: bool
    created_at: datetime

    @classmethod
    def of(cls, user: User, tier: str) -> "Profile":
        return cls(user.id, user.mobile, user.name, tier, user.password_hash is not None, user.created_at)


class UserOut(Schema):
    """A user."""

    id = fields.UUID("The user's id.", example="0192d3a4-5b6c-7d8e-9f01-23456789abcd")
    mobile = fields.String("The number in E.164.", example="+14155552671")
    name = fields.String("The user's name; may be null.", allow_none=True, example="Ada")
    tier = fields.String("The tier as of this request.", validate=ma.validate.OneOf(["basic", "pro"]), example="basic")
    has_password = fields.Boolean("Whether a password is set.", example=False)
    created_at = fields.Timestamp("When the user signed up.", example="2026-11-21T09:30:00.000000Z")
