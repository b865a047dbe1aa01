"""How gunicorn runs the stand-in: one process, because the state lives in it, and many threads.

https://gunicorn.org/reference/settings/
"""

import signal
from types import FrameType
from typing import Any

from sandbox.stripe.stand_in import EXTENSION

workers = 1
worker_class = "gthread"
threads = 64
timeout = 0
graceful_timeout = 1
keepalive = 5
accesslog = None
loglevel = "warning"


def post_worker_init(worker: Any) -> None:
    """Let go of calls that hang when the server is asked to end, so that it ends at once."""
    here = worker.wsgi.extensions[EXTENSION]
    earlier = signal.getsignal(signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        here.behaviours.close()
        if callable(earlier):
            earlier(number, frame)

    signal.signal(signal.SIGTERM, end)
