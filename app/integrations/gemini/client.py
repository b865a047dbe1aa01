"""The interface to a model: what goes there and comes back, the choice of a client, and what Google's answers mean.

Costs nothing to import; only the chosen client's SDK is imported, when a worker begins.
"""

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib import import_module
from typing import Any, Literal, Protocol

from app.integrations.bounded_calls import BoundedCall


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: Literal["user", "model"]
    text: str


class FinishReason(enum.StrEnum):
    """Why an answer ended where it does; public API."""

    STOP = "stop"
    MAX_TOKENS = "max_tokens"
    TIME_LIMIT = "time_limit"


@dataclass(frozen=True)
class Usage:
    """What an answer took, in the model's tokens. Thinking is billed as output and counted apart from it."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    cached_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True)
class Answer:
    """What a model replied. `model`: the one that answered, as it names itself."""

    text: str
    model: str
    finish_reason: FinishReason
    usage: Usage


class ModelClient(Protocol):
    """A client of a model; shared by the threads of a worker process."""

    def generate(
        self,
        turns: Sequence[Turn],
        call: BoundedCall,
        *,
        timeout_seconds: float,
        request_id: str | None = None,
        on_piece: Callable[[str], None] | None = None,
    ) -> Answer:
        """Ask for the next turn of a conversation, oldest first, ending with the user's.

        call: entered by the caller; bounds the attempt as a whole. timeout_seconds: for each read.
        request_id: sent along, so that one request can be found in two logs.
        on_piece: asks for a streamed reply; called with each piece, which joined are the answer's text.
        Raises a ModelError, also after some pieces; any other error is a defect of ours, and not the model's doing.
        """


class ModelError(Exception):
    """The model gave no answer. The message is for the log: never a client's, never the conversation's text."""


class ModelUnavailable(ModelError):
    """It may work when tried again; `retry_after`: seconds that the provider asks for, if it does."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelTimeout(ModelUnavailable):
    """The attempt took longer than it may."""


class CallAborted(ModelError):
    """Another thread ended the call."""


class ModelRejected(ModelError):
    """The provider refuses the request, the key or the model, and would again."""


class ReplyBlocked(ModelError):
    """Safety rules stopped the prompt or the answer."""


class ReplyEmpty(ModelError):
    """The answer has no text."""


class OutputLimit(ModelError):
    """All that the model may write went into thinking; there is no text."""


CLIENTS = {  # by what GEMINI_SDK says: module, class, and the file that installs the library
    "google-generativeai": ("app.integrations.gemini.generativeai", "Gemini", "requirements.txt"),
    "google-genai": ("app.integrations.gemini.genai", "GenAI", "requirements-genai.txt"),
}


class SdkMissing(Exception):
    """The chosen library is not installed; the message is a sentence for the operator."""


def model_client_class(sdk: str) -> Callable[..., ModelClient]:
    """What makes a client on the library that GEMINI_SDK names. Raises SdkMissing."""
    module, name, requirements = CLIENTS[sdk]
    try:
        client: Callable[..., ModelClient] = getattr(import_module(module), name)
    except ImportError as error:
        raise SdkMissing(f"GEMINI_SDK is {sdk}, which is not installed ({error}): install {requirements}.") from error
    return client


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
