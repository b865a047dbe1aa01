"""How many requests this process holds open, streams and waits together.

Each of them has a thread, and all other requests need some too.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_held = 0
_lock = threading.Lock()


@contextmanager
def held_request(*, at_most: int) -> Iterator[bool]:
    """Count a request among the held ones during the block; False, and not counted, when `at_most` are held."""
    global _held  # noqa: PLW0603 - the count is the process's
    with _lock:
        has_place = _held < at_most
        _held += has_place
    try:
        yield has_place
    finally:
        with _lock:
            _held -= has_place
