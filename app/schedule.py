"""What runs by itself, and which queue a task goes to. `python -m app.schedule` tells beat, as JSON.

beat asks in a process of its own that ends at once, since to read and check the settings takes more memory than all
that beat does.
"""

import json
import sys
from typing import Any

from app.core.broker import GENERATIONS
from app.core.logging import secrets_of
from config import ConfigError, Settings, load_settings

ROUTES = {"messages.generate_reply": {"queue": GENERATIONS}}  # all other tasks are chores
TICK_SECONDS = 10.0  # how fresh the heartbeat of beat and the workers is
KEYS_SWEEP_SECONDS = 60.0
PURGE_SECONDS = 60.0  # a deletion whose task was lost resumes soon
EVENTS_SWEEP_SECONDS = 60.0  # an event of Stripe's whose task was lost is applied soon
TITLES_SWEEP_SECONDS = 60.0
AUTH_SWEEP_SECONDS = 10.0  # a code lives for minutes: one whose task was lost is queued again soon


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """The tasks that beat queues, by name. A run that no worker took before the next one is due is dropped."""
    every_seconds = {
        "messages.sweep": settings.reply_sweep_seconds,
        "messages.sweep_keys": KEYS_SWEEP_SECONDS,
        "auth.sweep": AUTH_SWEEP_SECONDS,
        "chatrooms.sweep_untitled": TITLES_SWEEP_SECONDS,
        "billing.sweep_events": EVENTS_SWEEP_SECONDS,
        "billing.sync": settings.billing_sync_seconds,
        "ops.tick": TICK_SECONDS,
        "account.purge": PURGE_SECONDS,
    }
    return {
        task: {"task": task, "schedule": seconds, "options": {"expires": seconds}}
        for task, seconds in every_seconds.items()
    }


def main() -> None:
    """Print what beat needs to know. Raises SystemExit when a setting is wrong."""
    try:
        settings = load_settings()
    except ConfigError as error:
        sys.exit(f"Configuration: {error}")
    needed = {
        "redis_url": settings.redis_url,
        "pool_size": settings.redis_pool_size,
        "schedule": beat_schedule(settings),
        "logging": {
            "level": settings.log_level,
            "as_json": settings.logs_json,
            "secrets": secrets_of(settings.model_dump()),
        },
    }
    sys.stdout.write(json.dumps(needed))


if __name__ == "__main__":
    main()
