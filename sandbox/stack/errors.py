"""What keeps the stack from starting, or ends it."""


class StackError(Exception):
    """The stack does not start, or cannot go on; the message says why and what to do."""


class StoppedError(Exception):
    """Somebody asked for the end before the start was complete."""
