"""How many requests this process holds open: streams and waits together, and exports.

Each of them has a thread, and all other requests need some too.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

_held: Counter[str] = Counter()
_lock = threading.Lock()


@contextmanager
def held_request(kind: str = "replies", *, at_most: int) -> Iterator[bool]:
    """Count a request among the held ones during the block; False, and not counted, when `at_most` are held."""
    with _lock:
        has_place = _held[kind] < at_most
        _held[kind] += has_place
    try:
        yield has_place
    finally:
        with _lock:
            _held[kind] -= has_place
