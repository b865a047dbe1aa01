"""Celery's settings for its broker, Redis. Web processes, workers and beat use the same ones."""

from typing import Any

from celery import signals
from kombu.entity import Queue
from kombu.transport.redis import Channel

CHORES, GENERATIONS = "chores", "generations"  # the queues
TIMEOUT_SECONDS = 0.8  # for connecting and for each answer; a request waits for a few of them at most
TIMEOUTS = {"socket_connect_timeout": TIMEOUT_SECONDS, "socket_timeout": TIMEOUT_SECONDS}
CHECK_EVERY_SECONDS = 5  # a worker notices after 11 s at most that its connection died without a sign; by default, 51
CONNECTIONS_PER_PRODUCER = 2  # kombu's channel has two pools, and uses one connection of each


def broker_settings(url: str, *, pool_size: int) -> dict[str, Any]:
    """Return Celery's settings for the broker at `url`, which bound every wait for it.

    pool_size: connections that this process opens to queue tasks.

    PostgreSQL knows what is in progress, and sweeps queue again what a worker loses. So kombu's Redis transport neither
    records the tasks that a worker holds nor puts them back. Its records made workers stop for good: an acknowledgement
    that failed on a broken connection kept its place (https://github.com/celery/celery/issues/8030,
    https://github.com/celery/celery/issues/8091), and a full Redis let tasks be taken but not recorded.
    """
    Channel.do_restore = False  # no transport option sets it; if on, a lost connection runs each held task twice
    return {
        "broker_url": url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,  # Redis may answer with errors for a while: as a replica, or on a full disk
        "broker_pool_limit": pool_size // CONNECTIONS_PER_PRODUCER,
        "broker_transport_options": {
            **TIMEOUTS,
            "health_check_interval": CHECK_EVERY_SECONDS,
            "ack_emulation": False,
            "max_retries": 0,  # kombu would retry for six seconds
            "interval_start": 0,
        },
        "broker_use_ssl": {"ssl_cert_reqs": "required"} if url.startswith("rediss://") else None,
        # A worker takes from both in turn, so that a thousand waiting replies delay neither a login code nor a sweep.
        # Neither is declared: a list in Redis needs no declaration, which a full Redis would refuse.
        "task_queues": [Queue(name, no_declare=True) for name in (CHORES, GENERATIONS)],  # type: ignore[no-untyped-call]
        "task_default_queue": CHORES,
        "task_ignore_result": True,
        "task_publish_retry": False,
    }


@signals.setup_logging.connect
def keep_logging(**_: Any) -> None:
    """Keep the logging that this process has set up: without a receiver of this signal, Celery installs its own."""
