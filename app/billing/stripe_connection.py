"""This feature's connection to Stripe, one for each process, and its errors as a client sees them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from typing import Any
from uuid import UUID

from app.core import settings
from app.core.admission import held_request
from app.core.errors import RETRY_AFTER_SECONDS, AppError, RateLimited, ServiceUnavailable
from app.core.transactions import release_connection
from app.integrations.bounded_calls import BoundedCall
from app.integrations.stripe import Payments, PaymentsRejected, PaymentsUnavailable

log = logging.getLogger(__name__)


class PaymentProviderError(AppError):
    """Stripe refused the request."""

    status, code = HTTPStatus.BAD_GATEWAY, "payment_provider_error"
    detail = "The payment provider refused the request; the error has been logged. Nothing was charged."


def required_setting(name: str) -> Any:
    """A setting that payments need. Raises ServiceUnavailable, which names it, when it is empty."""
    value = getattr(settings(), name)
    if not value:
        raise ServiceUnavailable(f"Payments are not set up here: {name.upper()} is not set.")
    return value


connect = cache(Payments)  # by key and address, so one for each process


@contextmanager
def stripe_calls() -> Iterator[Payments]:
    """Yield Stripe for the calls of one use case, which share one time limit. Holds no database connection.

    Raises PaymentProviderError (Stripe refuses), ServiceUnavailable (no key, or Stripe does not answer in time).
    """
    config = settings()
    payments = connect(required_setting("stripe_secret_key"), config.stripe_api_base)
    release_connection()
    try:
        with BoundedCall(config.stripe_timeout):  # plus the pause of the SDK before its retry
            yield payments
    except PaymentsRejected as error:
        log.error("Stripe refused a call: %s", error)  # noqa: TRY400 - no traceback: it could show more than that
        raise PaymentProviderError from None
    except PaymentsUnavailable as error:
        log.warning("Stripe did not answer a call: %s", error)
        raise ServiceUnavailable("The payment provider does not answer right now. Try again shortly.") from None


@contextmanager
def stripe_calls_for(user_id: UUID) -> Iterator[Payments]:
    """Yield Stripe for a request of the user. Each holds a thread for as long as Stripe is slow, so they are few.

    A process allows half as many as the threads that streams leave free, and a user three quarters of these. Raises
    RateLimited, and what `stripe_calls` does.
    """
    config = settings()
    allowed = max(1, (config.web_threads - config.streams_allowed) // 2)
    # The user's own first: a user who sends too many at once takes none of the process's from others.
    with held_request(f"payments:{user_id}", at_most=allowed - allowed // 4) as is_one_of_few:
        if not is_one_of_few:
            raise RateLimited("Too many of your requests wait for Stripe.", retry_after=RETRY_AFTER_SECONDS)
        with held_request("payments", at_most=allowed) as has_slot:
            if not has_slot:
                log.warning("Payment request refused: WEB_THREADS allows only %d at once", allowed)
                raise ServiceUnavailable("Too many payments are under way on this server. Try again in a few seconds.")
            with stripe_calls() as payments:
                yield payments
