"""The worker's entry points to this feature. Every task takes ids, and may run twice."""

import threading
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID

from celery import shared_task
from celery.signals import worker_shutting_down
from flask import current_app

from app.core.database import database_now
from app.core.settings import settings
from app.core.transactions import transaction
from app.integrations.model_factory import model_client_class
from app.messages import sweeping
from app.messages.breaker import Breaker
from app.messages.generation import Generator
from app.messages.lease_keeper import LeaseKeeper
from app.messages.queueing import GENERATE_REPLY

one_at_a_time = threading.Lock()  # `cache` alone would let two first tasks make two
FINISH_WITHIN_SECONDS = 15  # of a shutdown's 25: what is not done by then is handed back


def generator() -> Generator:
    """The process's generator, one for all its threads."""
    with one_at_a_time:
        return make_generator()


@cache
def make_generator() -> Generator:
    chosen = settings()
    model = model_client_class(chosen.gemini_sdk)(
        api_key=chosen.gemini_api_key,
        endpoint=chosen.gemini_api_endpoint,
        model=chosen.gemini_model,
        system_instruction=chosen.gemini_system_instruction,
    )
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    keeper = LeaseKeeper(app, lease=timedelta(seconds=chosen.reply_lease_seconds))
    return Generator(model, keeper, Breaker())


@shared_task(name=GENERATE_REPLY)
def generate_reply(reply_id: str) -> None:
    """Make one attempt at a reply; does nothing when somebody else holds it or it is done."""
    generator().generate(UUID(reply_id))


@shared_task(name="messages.sweep")
def sweep() -> None:
    """Queue replies that nobody looks after again; delete old idempotency keys."""
    with transaction():
        now = database_now()
    sweeping.sweep_replies(now=now, requeue_after=timedelta(seconds=settings().reply_requeue_after_seconds))
    sweeping.sweep_idempotency_keys(now=now)


@worker_shutting_down.connect
def hand_back_in_time(**_: Any) -> None:
    if make_generator.cache_info().currsize:
        make_generator().keeper.leave_after(FINISH_WITHIN_SECONDS)
