"""How much of a day is used up, and how HTTP tells it."""

from dataclasses import dataclass
from datetime import datetime

from app.billing.models import Tier
from app.core.clock import next_midnight, seconds_until


@dataclass(frozen=True)
class Usage:
    """The prompts of one UTC day. `limit`: None for a tier without one."""

    tier: Tier
    limit: int | None
    used: int
    now: datetime

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used)

    @property
    def resets_at(self) -> datetime:
        return next_midnight(self.now)

    def headers(self) -> dict[str, str]:
        """`RateLimit-*` for a tier with a limit; nothing for one without."""
        if self.limit is None:
            return {}
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(seconds_until(self.resets_at, self.now)),
        }
