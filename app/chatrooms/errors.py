"""What can go wrong with a chatroom."""

from http import HTTPStatus

from app.core.errors import AppError


class ModelNotInTier(AppError):
    """The model is for a higher tier than the user's at this moment."""

    status, code = HTTPStatus.FORBIDDEN, "model_not_in_tier"
    detail = "This model is for Pro. Choose another one, or subscribe."
