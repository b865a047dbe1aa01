"""Serves a stand-in or the chat page with gunicorn, which reads its settings from this module.

There is one process, because it holds the state, and many threads, because calls may wait.
"""

import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

from sandbox.stack.processes import bind_error

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


def serve(name: str, factory: str, *, port: int, **options: object) -> NoReturn:
    """Replace this process with a gunicorn that serves an app on 127.0.0.1.

    factory: `module:function`, called with the options. Exits with one sentence if it cannot listen on the port;
    gunicorn would first retry for five seconds.
    """
    error = bind_error(port)
    if error is not None:
        sys.exit(f"The {name} cannot listen on 127.0.0.1:{port}: {error.strerror}.")
    print(f"The {name} listens on http://127.0.0.1:{port}", flush=True)
    arguments = ", ".join(f"{option}={value!r}" for option, value in options.items())
    command = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--config", "python:sandbox.serving"]
    os.execv(command[0], [*command, "--bind", f"127.0.0.1:{port}", f"{factory}({arguments})"])
