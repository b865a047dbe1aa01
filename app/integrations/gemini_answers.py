"""What Google's statuses, error details and finish reasons mean for a reply; costs nothing to import."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from app.integrations.bounded_calls import BoundedCall
from app.integrations.model_client import CallAborted, ModelError, ModelRejected, ModelTimeout, ModelUnavailable

TRANSIENT = {408, 429, 499, 500, 502, 503, 504}
CONNECTIONS = 256  # kept open to Google at most: as many as a worker has threads, and some
BLOCKED_FINISHES = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "LANGUAGE"}


@contextmanager
def ended_by(call: BoundedCall) -> Iterator[None]:
    """Whatever the block raises once the call was cut off, it was the cutting off that ended it."""
    try:
        yield
    except Exception as error:
        if call.aborted:
            raise CallAborted("aborted") from error
        if call.timed_out:
            raise ModelTimeout(str(error) if isinstance(error, ModelError) else type(error).__name__) from error
        raise


def error_for(status: int, details: list[Any], headers: Mapping[str, str]) -> ModelError:
    """What an error answer means. details: those of google.rpc.Status, as they came."""
    if status in TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ModelUnavailable(f"HTTP {status}", retry_after=retry_after_of(details, headers))
    reason = str(detail_of(details, "google.rpc.ErrorInfo").get("reason", ""))
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN} or reason == "API_KEY_INVALID":
        return ModelRejected(f"HTTP {status} {reason}: Google refuses GEMINI_API_KEY; set a valid key")
    if status == HTTPStatus.NOT_FOUND:
        return ModelRejected("HTTP 404: Google does not know GEMINI_MODEL; name a model that it offers")
    return ModelRejected(f"HTTP {status} {reason}".strip())


def retry_after_of(details: list[Any], headers: Mapping[str, str]) -> float | None:
    """Seconds that Google asks to wait: google.rpc.RetryInfo, or the header `Retry-After`."""
    delay = str(detail_of(details, "google.rpc.RetryInfo").get("retryDelay", "")).removesuffix("s")
    for seconds in (delay, headers.get("Retry-After", "")):
        try:
            return max(0.0, float(seconds))
        except ValueError:
            continue
    return None


def detail_of(details: list[Any], kind: str) -> dict[str, Any]:
    """One of the details that Google adds to an error, or nothing."""
    dicts = (detail for detail in details if isinstance(detail, dict))
    return next((detail for detail in dicts if str(detail.get("@type", "")).endswith(kind)), {})
