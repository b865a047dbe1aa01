"""How operators name a user on the command line."""

from uuid import UUID

import click

from app.users.mobile_numbers import to_e164
from app.users.models import User
from app.users.queries import find_user, find_user_by_mobile


def user_named(id_or_mobile: str) -> User:
    """The user with that id, or with that number in any international spelling. Raises click.BadParameter."""
    mobile = to_e164(id_or_mobile)
    try:
        found = find_user_by_mobile(mobile) if mobile else find_user(UUID(id_or_mobile))
    except ValueError:
        found = None
    if found is None:
        raise click.BadParameter(f"{id_or_mobile!r} is neither a user's id nor the number of one.", param_hint="USER")
    return found
