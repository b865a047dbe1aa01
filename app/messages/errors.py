"""What can go wrong with a message."""

from http import HTTPStatus

from app.core.errors import AppError


class MessageNotEditable(AppError):
    """It is a reply, it is superseded, or a reply of its room is under way."""

    status, code = HTTPStatus.CONFLICT, "message_not_editable"
    detail = "Only a prompt of the current conversation can be edited, and only while no reply is under way."


class IdempotencyKeyReused(AppError):
    """The key came before, with something else."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "idempotency_key_reused"
    detail = "This Idempotency-Key was used for a different request. Use a new key for a new message."
