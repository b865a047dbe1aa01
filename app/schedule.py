"""The periodic tasks, and the queue of each task. `python -m app.schedule` prints what beat needs, as JSON.

beat runs it as a separate process that ends at once, because reading and checking the settings takes more memory than
all that beat does.
"""

import json
import sys
from typing import Any

from app.core.broker import GENERATIONS
from app.core.logging import secrets_of
from config import Settings, load_settings

CLOCK_SKEW_SECONDS = 60.0  # between beat and a worker, at most
ROUTES = {"messages.generate_reply": {"queue": GENERATIONS}}  # all other tasks are chores


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the tasks that beat queues, by name. A run that no worker takes in time is dropped: a later one follows.

    Beat's clock sets an expiry and the worker's clock checks it, so none is shorter than CLOCK_SKEW_SECONDS.
    """
    every_seconds = {
        "messages.sweep": settings.reply_sweep_seconds,
        "auth.sweep": 10.0,  # a code lives for minutes: one whose task was lost is queued again soon
        "chatrooms.sweep_untitled": 60.0,
        "billing.sweep_events": 60.0,  # a Stripe event whose task was lost is applied soon
        "billing.sync": settings.billing_sync_seconds,
        "ops.tick": 10.0,  # how fresh the heartbeat of beat and the workers is
        "account.delete_ended": 60.0,
        "account.purge": 60.0,  # a deletion whose task was lost resumes soon
    }
    return {
        task: {"task": task, "schedule": seconds, "options": {"expires": max(seconds, CLOCK_SKEW_SECONDS)}}
        for task, seconds in every_seconds.items()
    }


def main() -> None:
    """Print what beat needs to know. Raises SystemExit when a setting is wrong."""
    settings = load_settings()
    beat_settings = {
        "redis_url": settings.redis_url,
        "pool_size": settings.redis_pool_size,
        "schedule": beat_schedule(settings),
        "logging": {
            "level": settings.log_level,
            "as_json": settings.logs_json,
            "secrets": secrets_of(settings.model_dump()),
        },
    }
    sys.stdout.write(json.dumps(beat_settings))


if __name__ == "__main__":
    main()
