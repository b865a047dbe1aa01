"""kombu's Redis transport, told to keep no books of its own on tasks that are under way.

kombu notes each task that a worker takes in Redis until the worker acknowledges it, which stopped workers for good.
An acknowledgement that failed kept its slot: when the connection broke while all slots were taken, none ever came
back, no task was asked for, and so the loss was never noticed (celery #8030, #8091). And a full Redis, which lets
tasks be taken but none be noted, ended the worker. PostgreSQL knows what is under way, and its sweeps queue again what
a worker loses, so the notes were of no use.
"""

from typing import Any

from kombu.transport import redis as transport

TAKEN_TASKS_ARE_NOT_NOTED: dict[str, Any] = {"ack_emulation": False}


def restore_nothing() -> None:
    """Put no task back when a channel closes: a lost connection would have each one that runs run twice.

    kombu has no option for it. Safe to call twice.
    """
    transport.Channel.do_restore = False
