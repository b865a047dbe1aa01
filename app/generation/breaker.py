"""A circuit breaker: when a Gemini model is down for everybody, one call at a time probes whether it is back.

Each worker process has one breaker per model. It opens after THRESHOLD failures in a row, which is more than the
attempts of a reply by default. It stays open for PAUSE_SECONDS; each probe that fails or takes long doubles the
pause, up to MAX_PAUSE_SECONDS. Meanwhile replies are deferred, which does not count as a failed attempt. A call may
fail because of its prompt. So a user's time-out counts only if none of the user's calls has failed since the last
answer, and a user whose calls failed lets others probe first. pybreaker has neither a single probe nor a time to wait.
"""

import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from app.integrations.gemini.client import CallAborted, ModelError, ModelTimeout, ModelUnavailable

log = logging.getLogger(__name__)

THRESHOLD, PAUSE_SECONDS, MAX_PAUSE_SECONDS = 10, 2.0, 20.0
PROBE_SECONDS = 3.0  # a longer probe goes on, but another may start: its own prompt may be what slows it down


class Breaker:
    """Shared by the threads of a process."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._lock = threading.Lock()
        self._failures_in_a_row = 0
        self._last_failure = ""
        self._pause_seconds = PAUSE_SECONDS
        self._open_until: float | None = None
        self._prober: int | None = None  # the thread whose call is the probe, while one is under way
        self._next_probe = 0.0  # when another probe may start although that one has not ended
        self._failed_users: set[UUID] = set()  # users whose calls have failed since the last answer

    def wait_seconds(self, user_id: UUID) -> float:
        """Return 0 if this thread may make the user's call now, else how long to defer it.

        The delay is random, so that replies do not all come back at once. For a user whose calls failed the pause
        counts as longer, so that others probe first.
        """
        with self._lock:
            if self._open_until is None:
                return 0
            now = time.monotonic()
            seconds_left = self._open_until - now
            if user_id in self._failed_users:
                seconds_left += 2 * PAUSE_SECONDS
            if seconds_left <= 0 and (self._prober is None or self._next_probe <= now):
                if self._prober is not None:
                    self._double_pause()
                self._prober, self._next_probe = threading.get_ident(), now + max(PROBE_SECONDS, self._pause_seconds)
                return 0
            return max(seconds_left, 0) + random.uniform(0.5, 1.5) * PAUSE_SECONDS  # noqa: S311 - a spread

    @contextmanager
    def watch(self, user_id: UUID) -> Iterator[None]:
        """Record how the user's call in the block ends, even by a defect: otherwise a probe would never end."""
        answered: bool | None = None
        try:
            yield
            answered = True
        except CallAborted:
            raise
        except ModelUnavailable as error:
            with self._lock:
                is_first = user_id not in self._failed_users
                self._failed_users.add(user_id)
                self._last_failure = str(error)
            answered = False if is_first or not isinstance(error, ModelTimeout) else None
            raise
        except ModelError:
            answered = True
            raise
        finally:
            self.record(answered=answered)

    def record(self, *, answered: bool | None) -> None:
        """Record how this thread's call ended. answered: None if the end tells nothing about Gemini.

        A call that began before the breaker opened, or a probe that another has replaced, can only close the breaker.
        """
        with self._lock:
            was_open, was_probe = self._open_until is not None, self._prober == threading.get_ident()
            if was_probe or answered:
                self._prober = None
            if answered:
                self._failed_users.clear()
                self._failures_in_a_row, self._pause_seconds, self._open_until = 0, PAUSE_SECONDS, None
                if was_open:
                    log.warning("%s answers again: the breaker is closed", self.model)
            elif answered is False:
                self._failures_in_a_row += 1
                if was_probe:
                    self._double_pause()
                if was_probe or (not was_open and self._failures_in_a_row >= THRESHOLD):
                    self._open_until = time.monotonic() + self._pause_seconds
                    facts = (self.model, self._failures_in_a_row, self._last_failure, self._pause_seconds)
                    log.error("%s has failed %d times in a row (%s): the breaker is open for %.0f s", *facts)

    def _double_pause(self) -> None:
        self._pause_seconds = min(self._pause_seconds * 2, MAX_PAUSE_SECONDS)
