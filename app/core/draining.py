"""Whether this process is about to end, for those who hold a request open for long."""

from collections.abc import Callable

_signs: list[Callable[[], bool]] = []


def watch(leaving: Callable[[], bool]) -> None:
    """Take `leaving` as a sign; the server's own hooks say what it is."""
    _signs.append(leaving)


def is_draining() -> bool:
    """Whether a held request should come to an end now."""
    return any(leaving() for leaving in _signs)
