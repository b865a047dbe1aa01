"""The foundation of every feature, and the settings that the factory was given. It imports no feature."""

from typing import TYPE_CHECKING, cast

from flask import current_app

if TYPE_CHECKING:
    from config import Settings


def settings() -> "Settings":
    """Return the settings of the running application."""
    return cast("Settings", current_app.extensions["settings"])
