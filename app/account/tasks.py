"""The worker's entry point to this feature. It may run twice."""

import time

from celery import shared_task

from app.account.purging import purge_account, purge_chatroom
from app.chatrooms.service import PURGE
from app.core.celery import enqueue

AT_ONCE_SECONDS = 2.0  # of a thread: whatever else waits comes in between


@shared_task(name=PURGE)
def purge() -> None:
    """Delete for good what was deleted, for a moment, and queue itself again when there is more."""
    until = time.monotonic() + AT_ONCE_SECONDS
    while purge_account() or purge_chatroom():
        if time.monotonic() > until:
            enqueue(PURGE)
            return
