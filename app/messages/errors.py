"""What can go wrong with a message."""

from http import HTTPStatus

from app.core.errors import AppError
from app.messages.usage import Usage


class QuotaExceeded(AppError):
    """The day's prompts are spent."""

    status, code = HTTPStatus.TOO_MANY_REQUESTS, "daily_quota_exceeded"
    detail = "Today's prompts are used up. They come back at midnight UTC; Pro has no daily limit."

    def __init__(self, usage: Usage) -> None:
        headers = usage.headers()
        super().__init__(headers=headers | {"Retry-After": headers["RateLimit-Reset"]})


class IdempotencyKeyReused(AppError):
    """The key came before, with something else."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "idempotency_key_reused"
    detail = "This Idempotency-Key was used for a different request. Use a new key for a new message."


class ReplyNotCancelable(AppError):
    """It has ended, or it is no reply."""

    status, code = HTTPStatus.CONFLICT, "reply_not_cancelable"
    detail = "Only a reply that is queued or generating can be canceled."


class ReplyNotRetryable(AppError):
    """It has not failed, or it is no reply."""

    status, code = HTTPStatus.CONFLICT, "reply_not_retryable"
    detail = "Only a reply that failed or was canceled can be retried."


class TooManyStreams(AppError):
    """The user follows enough replies at once."""

    status, code = HTTPStatus.TOO_MANY_REQUESTS, "too_many_streams"
    detail = "Too many streams are open. Close one, or poll the reply."

    def __init__(self) -> None:
        super().__init__(headers={"Retry-After": "5"})
