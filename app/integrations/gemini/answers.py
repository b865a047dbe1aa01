"""What Google's answers mean, whichever SDK they come through: the text and its end, and errors.

Source of the fields: https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from http import HTTPStatus
from typing import Any

from app.integrations.bounded_calls import BoundedCall
from app.integrations.gemini.client import (
    Answer,
    CallAborted,
    FinishReason,
    ModelError,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    OutputLimit,
    ReplyBlocked,
    ReplyEmpty,
    Usage,
)

TRANSIENT = {408, 429, 499, 500, 502, 503, 504}
BLOCKED_FINISHES = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "LANGUAGE"}
MAX_TOKENS = "MAX_TOKENS"
MAX_MODEL_CHARS = 100  # of a model's name, as it is stored
DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Chunk:
    """One response: all of an answer, or the next part of a stream. Empty where Google says nothing.

    blocked: why the prompt was refused. finish: why the answer ended. usage: of the answer so far.
    """

    text: str
    finish: str
    blocked: str
    model: str
    usage: Usage


def read_answer(
    chunks: Iterator[Chunk], call: BoundedCall, asked_model: str, on_piece: Callable[[str], None] | None
) -> Answer:
    """The answer that the chunks of a whole response, or of a stream, make. Hands each piece of a stream on.

    A stream whose time is over is an answer as far as it came.
    Raises ModelTimeout, CallAborted, ModelUnavailable, ReplyBlocked, ReplyEmpty, OutputLimit.
    """
    pieces: list[str] = []
    finish, model, usage = "", asked_model, Usage()
    try:
        for chunk in checked(chunks):
            finish, usage = chunk.finish or finish, latest(usage, chunk.usage)
            model = chunk.model[:MAX_MODEL_CHARS] or model
            piece = chunk.text.replace("\x00", "")  # which PostgreSQL cannot store
            if piece:
                pieces.append(piece)
                if on_piece:
                    on_piece(piece)
    except ModelUnavailable as error:
        is_over = not call.aborted and (call.timed_out or isinstance(error, ModelTimeout))
        if not (is_over and on_piece and "".join(pieces).strip()):
            raise
        return Answer("".join(pieces), model, FinishReason.TIME_LIMIT, usage)
    text = "".join(pieces)
    if text.strip():
        return Answer(text, model, FinishReason.MAX_TOKENS if finish == MAX_TOKENS else FinishReason.STOP, usage)
    raise (OutputLimit if finish == MAX_TOKENS else ReplyEmpty)(f"no text, finish reason {finish or 'none'}")


def checked(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """The chunks, as long as Google stands by them. Raises ReplyBlocked, ModelUnavailable."""
    is_ended = is_begun = has_prompt = False
    for chunk in chunks:
        if chunk.blocked:
            raise ReplyBlocked(f"prompt blocked: {chunk.blocked}")
        if chunk.finish in BLOCKED_FINISHES:
            raise ReplyBlocked(f"answer blocked: {chunk.finish}")
        is_ended, is_begun = is_ended or bool(chunk.finish), is_begun or bool(chunk.text)
        has_prompt = has_prompt or bool(chunk.usage.prompt_tokens)
        yield chunk
    if not is_ended and (is_begun or not has_prompt):  # it would pass for a whole answer, or for an empty one
        raise ModelUnavailable("the answer broke off, or never began")


def latest(known: Usage, told: Usage) -> Usage:
    """What is known once a chunk has told its part: each counts from the beginning of the answer."""
    return Usage(*(new or old for new, old in zip(astuple(told), astuple(known), strict=True)))


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
    if is_spent_for_today(details):
        return ModelUnavailable(f"HTTP {status}: the day's quota at Google is spent", retry_after=DAY_SECONDS)
    if status in TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ModelUnavailable(f"HTTP {status}", retry_after=retry_after_of(details, headers))
    reason = str(detail_of(details, "google.rpc.ErrorInfo").get("reason", ""))
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN} or reason == "API_KEY_INVALID":
        return ModelRejected(f"HTTP {status} {reason}: Google refuses GEMINI_API_KEY; set a valid key")
    if status == HTTPStatus.NOT_FOUND:
        return ModelRejected(
            "HTTP 404: Google does not know the model; name one that it offers in GEMINI_MODEL or GEMINI_MODELS"
        )
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


def is_spent_for_today(details: list[Any]) -> bool:
    """Whether Google names a quota that comes back with the day: google.rpc.QuotaFailure, `…PerDay…` in its ids."""
    violations = detail_of(details, "google.rpc.QuotaFailure").get("violations")
    named = [violation for violation in violations or () if isinstance(violation, dict)]
    return any("PerDay" in str(violation.get("quotaId", "")) for violation in named)


def detail_of(details: list[Any], kind: str) -> dict[str, Any]:
    """One of the details that Google adds to an error, or nothing."""
    dicts = (detail for detail in details if isinstance(detail, dict))
    return next((detail for detail in dicts if str(detail.get("@type", "")).endswith(kind)), {})
