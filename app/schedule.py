"""Which tasks run by themselves, and which queue a task goes to: what Celery is told of the features."""

from typing import Any

from app.core.celery import GENERATIONS
from config import Settings

TICK_SECONDS = 10.0  # how fresh the sign of life of beat and the workers is
KEYS_SWEEP_SECONDS = 60.0
PURGE_SECONDS = 60.0  # a deletion whose task was lost goes on soon
AUTH_SWEEP_SECONDS = 10.0  # a code lives for minutes: one whose task was lost is queued again soon

ROUTES = {"messages.generate_reply": {"queue": GENERATIONS}}  # all others are chores


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """What beat asks for. A run that no worker took before the next one is due is dropped."""
    every = {
        "messages.sweep": settings.reply_sweep_seconds,
        "messages.sweep_keys": KEYS_SWEEP_SECONDS,
        "auth.sweep": AUTH_SWEEP_SECONDS,
        "billing.sync": settings.billing_sync_seconds,
        "ops.tick": TICK_SECONDS,
        "account.purge": PURGE_SECONDS,
    }
    return {
        task: {"task": task, "schedule": seconds, "options": {"expires": seconds}} for task, seconds in every.items()
    }
