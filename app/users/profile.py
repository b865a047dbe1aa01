"""The user's profile, as the API shows it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import marshmallow as ma

from app.core.schemas import Schema, Timestamp
from app.users.models import User

EXAMPLE_USER: dict[str, Any] = {
    "id": "0192d3a4-5b6c-7d8e-9f01-23456789abcd",
    "mobile": "+14155552671",
    "name": "Ada",
    "tier": "basic",
    "has_password": False,
    "created_at": "2026-11-21T09:30:00.000000Z",
}


@dataclass(frozen=True)
class Profile:
    """The user's profile. `tier`: as of the request."""

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

    id = ma.fields.UUID(metadata={"description": "The user's id."})
    mobile = ma.fields.String(metadata={"description": "The number in E.164."})
    name = ma.fields.String(allow_none=True, metadata={"description": "The user's name; may be null."})
    tier = ma.fields.String(
        validate=ma.validate.OneOf(["basic", "pro"]), metadata={"description": "The tier as of this request."}
    )
    has_password = ma.fields.Boolean(metadata={"description": "Whether a password is set."})
    created_at = Timestamp(metadata={"description": "When the user signed up."})
