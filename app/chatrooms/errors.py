"""What can go wrong with a chatroom."""

from http import HTTPStatus

from app.core.errors import AppError


class IdempotencyKeyReused(AppError):
    """The key came before, with something else."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "idempotency_key_reused"
    detail = "This Idempotency-Key was used for a different request. Use a new key for a new request."


class ModelNotInTier(AppError):
    """The model is for a higher tier than the user's at this moment."""

    status, code = HTTPStatus.FORBIDDEN, "model_not_in_tier"
    detail = "This model is for Pro. Choose another one, or subscribe."
