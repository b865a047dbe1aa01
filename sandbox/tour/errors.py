"""What ends a tour early."""


class TourError(Exception):
    """Something did not come out as expected; the message says what, in one sentence."""
