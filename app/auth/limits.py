"""Limits for each address on the routes that need no token. Those for each number are in `throttles`."""

from limits import RateLimitItemPerHour, RateLimitItemPerMinute

from app.core.limits import Limit

# A person needs a handful of these; the floor keeps a household behind one address going.
AUTH_REQUESTS = Limit("auth", RateLimitItemPerMinute, lambda per_minute: min(per_minute, max(10, per_minute // 4)))
CODES_SENT = Limit("codes", RateLimitItemPerHour, lambda per_minute: max(30, per_minute // 2))
