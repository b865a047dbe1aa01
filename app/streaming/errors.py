"""What can go wrong with a stream."""

from http import HTTPStatus

from app.core.errors import AppError


class TooManyStreams(AppError):
    """The user follows enough replies at once."""

    status, code = HTTPStatus.TOO_MANY_REQUESTS, "too_many_streams"
    detail = "Too many streams are open. Close one, or poll the reply."

    def __init__(self) -> None:
        super().__init__(headers={"Retry-After": "5"})
