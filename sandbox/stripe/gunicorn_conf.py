"""How gunicorn runs the stand-in: one process, because the state lives in it, and many threads.

https://gunicorn.org/reference/settings/
"""

import signal
from types import FrameType
from typing import Any

from sandbox.stripe.api import EXTENSION

workers = 1
worker_class = "gthread"
threads = 64
timeout = 0
graceful_timeout = 1
keepalive = 5
accesslog = None
loglevel = "warning"

ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def post_worker_init(worker: Any) -> None:
    """Let go of calls that hang when the server is asked to end, so that it ends at once."""
    here = worker.wsgi.extensions[EXTENSION]
    earlier = {number: signal.getsignal(number) for number in ENDINGS}

    def end(number: int, frame: FrameType | None) -> None:
        here.behaviours.close()
        handler = earlier[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in ENDINGS:
        signal.signal(number, end)
