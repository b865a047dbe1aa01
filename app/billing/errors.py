"""What can go wrong with a payment."""

from http import HTTPStatus

from app.core.errors import AppError


class AlreadySubscribed(AppError):
    """There is a subscription that lives, or one whose first payment is under way."""

    status, code = HTTPStatus.CONFLICT, "already_subscribed"
    detail = "You have Pro already, or its payment is due. Manage it with POST /subscription/portal."
    under_way = "Your first payment is under way, which may take days. Pro begins when it arrives."


class InvalidSignature(AppError):
    """The webhook's body is not what Stripe signed for us, or not just now."""

    status, code = HTTPStatus.BAD_REQUEST, "invalid_signature"
    detail = "The body does not carry a valid, recent signature of Stripe's."


class PaymentProviderError(AppError):
    """Stripe refuses what it was asked for; nothing was changed here."""

    status, code = HTTPStatus.BAD_GATEWAY, "payment_provider_error"
    detail = "The payment provider refused the request. Nothing was changed; the operator has been told."
