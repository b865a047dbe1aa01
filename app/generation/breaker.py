"""A circuit breaker: when a model of Gemini's is down for everybody, one call at a time asks whether it is back.

Each worker process has one for each model. It opens after `threshold` failures in a row, more than the attempts that a
reply has by default, and stays open for `pause_seconds`, doubled at each probe that fails or takes long, up to
`max_pause_seconds`. While it is open, replies are deferred without counting as tried. A prompt may be the reason why
its call fails. So of one user's time-outs in a row the first alone counts, and a user whose calls failed lets others
probe first. pybreaker refuses calls but knows neither a single probe nor how long to wait.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from app.integrations.gemini.client import CallAborted, ModelError, ModelTimeout, ModelUnavailable

log = logging.getLogger(__name__)

PROBE_SECONDS = 3.0  # a probe that takes longer goes on, and another one is made: it may be its own prompt's doing


class Breaker:
    """Shared by the threads of a process."""

    def __init__(
        self,
        model: str = "Gemini",
        *,
        threshold: int = 10,
        pause_seconds: float = 2,
        max_pause_seconds: float = 20,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.threshold = threshold
        self.first_pause = pause_seconds
        self.max_pause = max_pause_seconds
        self.monotonic = monotonic
        self._lock = threading.Lock()
        self._failures_in_a_row = 0
        self._pause = pause_seconds
        self._open_until: float | None = None
        self._prober: int | None = None  # the thread whose call is the probe, while one is under way
        self._next_probe = 0.0  # when another one may be made nevertheless
        self._failed: set[UUID] = set()  # users whose calls have failed since the last answer

    def wait_seconds(self, user_id: UUID) -> float:
        """0 when this thread may make the user's call now; else how long to defer it.

        Spread so that not all come at once. A user whose calls failed waits until the others have come back.
        """
        with self._lock:
            if self._open_until is None:
                return 0
            now = self.monotonic()
            left = self._open_until - now
            if user_id in self._failed:
                left += 2 * self.first_pause
            if left <= 0 and (self._prober is None or self._next_probe <= now):
                if self._prober is not None:
                    self._double_pause()
                self._prober, self._next_probe = threading.get_ident(), now + max(PROBE_SECONDS, self._pause)
                return 0
            return max(left, 0) + random.uniform(0.5, 1.5) * self.first_pause  # noqa: S311 - a spread

    @contextmanager
    def watch(self, user_id: UUID) -> Iterator[None]:
        """Record how the user's call in the block ends, also when it ends in a defect: else a probe would never end."""
        answered: bool | None = None
        try:
            yield
            answered = True
        except CallAborted:
            raise
        except ModelUnavailable as error:
            is_first = self.is_first_failure(user_id)
            answered = False if is_first or not isinstance(error, ModelTimeout) else None
            raise
        except ModelError:
            answered = True
            raise
        finally:
            self.record(answered=answered)

    def is_first_failure(self, user_id: UUID) -> bool:
        """Whether none of the user's calls has failed since the last answer; from now on one has."""
        with self._lock:
            is_first = user_id not in self._failed
            self._failed.add(user_id)
            return is_first

    def record(self, *, answered: bool | None) -> None:
        """Say how this thread's call ended; None: in a way that tells nothing about Gemini.

        A call that began before the breaker opened, or a probe that took too long, can close it and nothing else.
        """
        with self._lock:
            was_open, was_probe = self._open_until is not None, self._prober == threading.get_ident()
            if was_probe or answered:
                self._prober = None
            if answered:
                self._failed.clear()
                self._failures_in_a_row, self._pause, self._open_until = 0, self.first_pause, None
                if was_open:
                    log.warning("%s answers again: the breaker is closed", self.model)
            elif answered is False:
                self._failures_in_a_row += 1
                if was_probe or (not was_open and self._failures_in_a_row >= self.threshold):
                    self._open(longer=was_probe)

    def _open(self, *, longer: bool) -> None:
        if longer:
            self._double_pause()
        self._open_until = self.monotonic() + self._pause
        log.error(
            "%s has failed %d times in a row: the breaker is open for %.0f s",
            self.model,
            self._failures_in_a_row,
            self._pause,
        )

    def _double_pause(self) -> None:
        self._pause = min(self._pause * 2, self.max_pause)
