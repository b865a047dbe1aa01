"""gunicorn's settings for a stand-in: one process, because the state lives in it, and many threads for waiting calls.

https://gunicorn.org/reference/settings/
"""

import signal
from types import FrameType
from typing import Any

workers = 1
worker_class = "gthread"
threads = 400
worker_connections = 1200
backlog = 1024
keepalive = 30
timeout = 0
graceful_timeout = 1
loglevel = "warning"

ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def post_worker_init(worker: Any) -> None:
    """Let go of hanging calls when the process is told to end, before gunicorn's own handler waits for them."""
    stand_in = worker.wsgi.extensions["stand_in"]
    earlier = {number: signal.getsignal(number) for number in ENDINGS}

    def end(number: int, frame: FrameType | None) -> None:
        stand_in.close()
        handler = earlier[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in ENDINGS:
        signal.signal(number, end)
