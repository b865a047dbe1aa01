"""Routes of one's own account."""

from typing import Any

from flask.views import MethodView

from app.account import service
from app.account.schemas import EXAMPLE_USAGE, ProfileIn, UsageOut
from app.core.api import Blueprint
from app.core.auth import current_user_id
from app.core.clock import utc_now
from app.messages.service import usage_today
from app.users.profiles import EXAMPLE_USER, UserOut

blp = Blueprint("user", __name__, url_prefix="/user", description="One's own account: profile and usage.")


@blp.route("/me")
class Me(MethodView):
    @blp.authenticated()
    @blp.response(200, UserOut, example=EXAMPLE_USER)
    def get(self) -> object:
        """Read your profile

        `tier` is as of this request."""
        return service.profile(current_user_id(), now=utc_now())

    @blp.authenticated()
    @blp.arguments(ProfileIn)
    @blp.response(200, UserOut, example=EXAMPLE_USER)
    def patch(self, body: dict[str, Any]) -> object:
        """Change your name

        `null` takes it away."""
        return service.rename(current_user_id(), body["name"], now=utc_now())


@blp.route("/usage")
class DailyUsage(MethodView):
    @blp.authenticated()
    @blp.response(200, UsageOut, example=EXAMPLE_USAGE)
    def get(self) -> object:
        """See today's prompts

        How many are spent and left, and when the day ends."""
        return usage_today(current_user_id(), now=utc_now())
