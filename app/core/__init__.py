"""What every feature stands on, and the settings that the factory was given; knows no feature."""

from typing import TYPE_CHECKING, cast

from flask import current_app

if TYPE_CHECKING:
    from config import Settings


def settings() -> "Settings":
    """The settings of the running application."""
    return cast("Settings", current_app.extensions["settings"])
