"""The headers that tell what is left of the day: their values, and how the API's description shows them."""

from typing import TYPE_CHECKING

from app.core.api import header
from app.core.clock import seconds_until

if TYPE_CHECKING:
    from app.quota.usage import Usage

DAY_SECONDS = 86_400

STRUCTURED_HEADERS = {
    "RateLimit": header('Prompts left today, and seconds until midnight UTC: `"daily";r=3;t=41000`. Basic only.'),
    "RateLimit-Policy": header('Prompts in a day of so many seconds: `"daily";q=5;w=86400`. Basic only.'),
}
QUOTA_HEADERS = STRUCTURED_HEADERS | {
    "RateLimit-Limit": header("Prompts a day; Basic only.", "integer"),
    "RateLimit-Remaining": header("Prompts left today; Basic only.", "integer"),
    "RateLimit-Reset": header("Seconds until midnight UTC; Basic only.", "integer"),
}


def structured_headers(usage: "Usage") -> dict[str, str]:
    """STRUCTURED_HEADERS of an answer, in the form of draft-ietf-httpapi-ratelimit-headers-11.

    Nothing for a tier without a limit.
    """
    if usage.limit is None:
        return {}
    return {
        "RateLimit": f'"daily";r={usage.remaining};t={seconds_left(usage)}',
        "RateLimit-Policy": f'"daily";q={usage.limit};w={DAY_SECONDS}',
    }


def quota_headers(usage: "Usage") -> dict[str, str]:
    """QUOTA_HEADERS of an answer; nothing for a tier without a limit."""
    if usage.limit is None:
        return {}
    return structured_headers(usage) | {
        "RateLimit-Limit": str(usage.limit),
        "RateLimit-Remaining": str(usage.remaining),
        "RateLimit-Reset": seconds_left(usage),
    }


def seconds_left(usage: "Usage") -> str:
    """Until the day ends."""
    return str(seconds_until(usage.resets_at, usage.now))
