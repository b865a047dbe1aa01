"""What can go wrong with a message."""

from http import HTTPStatus

from app.core.errors import AppError


class IdempotencyKeyReused(AppError):
    """The key came before, with something else."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "idempotency_key_reused"
    detail = "This Idempotency-Key was used for a different request. Use a new key for a new message."
