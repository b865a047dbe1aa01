"""Everything the stand-in remembers: counts, the last requests, and what it was told to do."""

import threading
from collections import deque
from typing import Any

from sandbox.gemini.behaviour import Behaviour, Closing, Fields, Waker, directives_in, without_faults

REQUESTS_KEPT = 1000


class Counters:
    """How many calls there were and how many are in flight, with a way to wait for a number."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.calls = 0
        self.in_flight = 0
        self.max_in_flight = 0

    def enter(self) -> None:
        """Count a call that begins."""
        with self._changed:
            self.calls += 1
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)
            self._changed.notify_all()

    def leave(self) -> None:
        """Count a call whose answer has been sent, or whose client has left."""
        with self._changed:
            self.in_flight -= 1
            self._changed.notify_all()

    def clear(self) -> None:
        """Start counting again. Calls in flight stay counted."""
        with self._changed:
            self.calls = 0
            self.max_in_flight = self.in_flight

    def wait_for(
        self,
        *,
        in_flight_at_least: int = 0,
        in_flight_at_most: int | None = None,
        timeout_seconds: float = 10.0,
    ) -> dict[str, int]:
        """Return the counts as soon as the condition holds, or at the timeout."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self.in_flight >= in_flight_at_least
                    and (in_flight_at_most is None or self.in_flight <= in_flight_at_most)
                ),
                timeout_seconds,
            )
            return {"calls": self.calls, "in_flight": self.in_flight, "max_in_flight": self.max_in_flight}


class StandIn:
    """The state of the one process. Safe to use from every thread."""

    def __init__(self, *, pace_seconds: float) -> None:
        self.counters = Counters()
        self.closing = Closing()
        self.released = Waker()
        self._defaults: Fields = {"pace": pace_seconds}
        self._lock = threading.Lock()
        self._requests: deque[dict[str, Any]] = deque(maxlen=REQUESTS_KEPT)
        self._everywhere: Fields = {}
        self._failures_of_prompt: dict[str, int] = {}

    def behave(self, fields: Fields) -> None:
        """Treat every request in this way from now on."""
        with self._lock:
            self._everywhere = dict(fields)

    def reset(self) -> None:
        """Answer normally again, and release hanging requests."""
        with self._lock:
            self._everywhere = {}
        self.released.fire()

    def close(self) -> None:
        """Release every waiting request for good: the process is ending. Safe in a signal handler."""
        self.closing.fire()

    def behaviour_for(self, prompt: str) -> Behaviour:
        """Decide how to treat a request, and count it. Raises ApiError for a bad directive."""
        own = directives_in(prompt)
        with self._lock:
            everywhere = self._count_down_everywhere()
            return Behaviour(**{**self._defaults, **everywhere, **self._count_prompt(prompt, own)})

    def _count_down_everywhere(self) -> Fields:
        fields = dict(self._everywhere)
        if "times" not in fields:
            return fields
        if fields["times"] == 0:
            return without_faults(fields)
        self._everywhere["times"] -= 1
        return fields

    def _count_prompt(self, prompt: str, own: Fields) -> Fields:
        """Fail `times` times, answer once, then start over, so that a demo can be repeated."""
        if "times" not in own:
            return own
        failures = self._failures_of_prompt.pop(prompt, 0)
        if failures >= own["times"]:
            return without_faults(own)
        self._failures_of_prompt[prompt] = failures + 1
        return own

    def remember(self, seen: dict[str, Any]) -> None:
        """Keep a request for `GET /sandbox/requests`."""
        with self._lock:
            self._requests.append(seen)

    def requests(self) -> list[dict[str, Any]]:
        """Return the last requests, oldest first."""
        with self._lock:
            return list(self._requests)

    def forget(self) -> None:
        """Drop the remembered requests and the counts."""
        with self._lock:
            self._requests.clear()
        self.counters.clear()
