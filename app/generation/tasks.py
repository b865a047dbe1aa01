"""The worker's entry points to this feature. Tasks take nothing but ids, and may run twice."""

from datetime import timedelta
from uuid import UUID

from celery import shared_task
from flask import Flask, current_app

from app.chatrooms.service import offered_models
from app.core import settings
from app.core.clock import database_now, utc_now
from app.core.transactions import release_connection, transaction
from app.generation.breaker import Breaker
from app.generation.queueing import GENERATE_REPLY, NAME_CHATROOM
from app.generation.runner import Runner, configured_client
from app.generation.titles import configured_titler, title_chatroom, untitled_chatrooms
from app.generation.worker import LeaseKeeper, sweep_replies


@shared_task(name=GENERATE_REPLY)
def generate_reply(reply_id: str) -> None:
    """Make one attempt at a reply. Does nothing if it has ended, is held by another worker, or must wait."""
    current_app.extensions["runner"].run(UUID(reply_id))


@shared_task(name=NAME_CHATROOM)
def name_chatroom(chatroom_id: str) -> None:
    """Name a chatroom that nobody has named."""
    title_chatroom(UUID(chatroom_id), current_app.extensions["titler"], now=utc_now())


@shared_task(name="chatrooms.sweep_untitled")
def sweep_untitled() -> None:
    """Queue again the lost tasks that name chatrooms."""
    with transaction() as tx:
        for chatroom_id in untitled_chatrooms(utc_now()):
            tx.enqueue_after_commit(NAME_CHATROOM, str(chatroom_id))


@shared_task(name="messages.sweep")
def sweep() -> None:
    """Queue again the replies whose worker is gone or whose task was lost."""
    now = database_now()
    release_connection()
    sweep_replies(now=now, requeue_after=timedelta(seconds=settings().reply_requeue_after_seconds))


def start_runner(app: Flask) -> None:
    """Make the runner and the titler, which all threads of the worker share.

    Raises ClientNotConfigured.
    """
    with app.app_context():
        keeper = LeaseKeeper(app, lease=timedelta(seconds=settings().reply_lease_seconds))
        breakers = {model: Breaker(model) for model in offered_models()}
        app.extensions["runner"] = Runner(configured_client(), keeper, breakers)
        app.extensions["titler"] = configured_titler()
