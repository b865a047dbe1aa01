"""What can go wrong when a client steers a reply, or a worker claims one."""

from http import HTTPStatus

from app.core.errors import AppError


class ReplyNotCancelable(AppError):
    """It has ended, or it is no reply."""

    status, code = HTTPStatus.CONFLICT, "reply_not_cancelable"
    detail = "Only a reply that is queued or generating can be canceled."


class ReplyNotRetryable(AppError):
    """It is no reply, has not ended, is superseded, or is completed while another of its room is under way."""

    status, code = HTTPStatus.CONFLICT, "reply_not_retryable"
    detail = (
        "Only a reply that has ended and was not superseded can be retried,"
        " and a completed one only while no other is under way."
    )


class ClaimedElsewhere(Exception):
    """Another reply of the room, or of the user in the same slot, is claimed at this very moment."""
