"""kombu's Redis transport, made to outlive a lost connection.

When the connection breaks while kombu closes what is left of it, putting unacknowledged messages back fails with
an AttributeError (kombu 5.7: the channel has forgotten its connection), which ends the worker. Nothing is lost
by not putting them back: every task is queued again from PostgreSQL.
"""

import logging
from typing import Any

from kombu.transport import redis as transport

log = logging.getLogger(__name__)


class TolerantQoS(transport.QoS):
    """Puts unacknowledged messages back if that is possible."""

    def restore_unacked_once(self, stderr: Any = None) -> None:
        try:
            super().restore_unacked_once(stderr=stderr)  # type: ignore[no-untyped-call]
        except Exception as error:
            log.warning("Messages could not be put back into the queue (%s); the sweepers queue them again", error)


def outlive_lost_connections() -> None:
    """Let every channel to Redis use it. Safe to call twice."""
    transport.Channel.QoS = TolerantQoS
