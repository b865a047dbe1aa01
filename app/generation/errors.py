"""What can go wrong when a client steers a reply."""

from http import HTTPStatus

from app.core.errors import AppError


class ReplyNotCancelable(AppError):
    """It has ended, or it is no reply."""

    status, code = HTTPStatus.CONFLICT, "reply_not_cancelable"
    detail = "Only a reply that is queued or generating can be canceled."


class ReplyNotRetryable(AppError):
    """It has not failed, or it is no reply."""

    status, code = HTTPStatus.CONFLICT, "reply_not_retryable"
    detail = "Only a reply that failed or was canceled can be retried."
