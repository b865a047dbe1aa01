"""Serves a stand-in or the chat page with gunicorn, which reads its settings from this module.

There is one process, because it holds the state, and many threads, because calls may wait.
"""

import signal
import sys
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
    """Make a signal that ends the process release hanging calls before gunicorn's own handler waits for them."""
    stand_in = worker.wsgi.extensions.get("stand_in")
    if stand_in is None:
        return
    earlier = {number: signal.getsignal(number) for number in ENDINGS}

    def end(number: int, frame: FrameType | None) -> None:
        stand_in.close()
        handler = earlier[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in ENDINGS:
        signal.signal(number, end)


def serving_command(factory: str, *, port: int, **options: object) -> list[str]:
    """Return the command that serves an app on 127.0.0.1. factory: `module:function`, called with the options."""
    arguments = ", ".join(f"{option}={value!r}" for option, value in options.items())
    command = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--config", "python:sandbox.serving"]
    return [*command, "--bind", f"127.0.0.1:{port}", f"{factory}({arguments})"]
