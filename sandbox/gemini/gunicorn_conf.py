"""gunicorn's hooks: let waiting requests go when the process is told to end."""

import signal
from types import FrameType
from typing import Any

from sandbox.gemini.state import StandIn


def post_worker_init(worker: Any) -> None:
    """Wake every waiting request on SIGTERM, before gunicorn's own handler begins to drain.

    A thread that hangs on would keep the process alive past its end.
    """
    stand_in: StandIn = worker.wsgi.extensions["stand_in"]
    drain = signal.getsignal(signal.SIGTERM)

    def end(signal_number: int, frame: FrameType | None) -> None:
        stand_in.closing.fire()
        if callable(drain):
            drain(signal_number, frame)

    signal.signal(signal.SIGTERM, end)
