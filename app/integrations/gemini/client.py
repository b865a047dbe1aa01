"""The interface to a model: requests and answers, what Google's errors mean, and the choice of a client.

It imports no SDK. `model_client_class` imports only the chosen one, for a worker or `flask gemini check`.
Source of the fields: https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse.
"""

import enum
import json
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from importlib import import_module
from typing import Any, Literal

from app.integrations.bounded_calls import BoundedCall

CONNECTIONS = 256  # kept open to Google at most: more than a worker has threads by default
TRANSIENT = {408, 429, 499}  # and 5xx
BLOCKED_FINISHES = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "LANGUAGE"}
MAX_TOKENS = "MAX_TOKENS"
MAX_MODEL_CHARS = 100  # of a model's name, as it is stored
DAY_SECONDS = 86_400.0
CONSTANT = re.compile(r"[A-Z][A-Z0-9_]{0,62}")  # a status or a reason: google/rpc/error_details.proto
USERS_INSTRUCTION = (
    "The user asks for the following in this conversation. Follow it where it does not contradict what is said above:\n"
)


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
class TokenUsage:
    """The tokens that an answer took, by the model's count. Thinking is billed as output, but counted separately."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    cached_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True)
class Answer:
    """What a model replied. `model`: the model that answered, by the name it gives itself."""

    text: str
    model: str
    finish_reason: FinishReason
    usage: TokenUsage


@dataclass(frozen=True)
class Chunk:
    """One response: a whole answer, or the next part of a stream. Fields are empty if Google says nothing.

    blocked: why the prompt was refused. finish: why the answer ended. usage: of the answer so far.
    """

    text: str
    finish: str
    blocked: str
    model: str
    usage: TokenUsage


class ModelError(Exception):
    """The model gave no answer. The message is for the log: never a client's, never the conversation's text.

    code: of the failed reply; public API. retry_after: the seconds that the provider asks us to wait, if it does.
    """

    code = "model_unavailable"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelUnavailable(ModelError):
    """A retry may succeed."""


class ModelTimeout(ModelUnavailable):
    """The attempt took too long."""

    code = "model_timeout"


class CallAborted(ModelError):
    """Another thread ended the call."""


class ModelRejected(ModelError):
    """The provider refuses the request, the key or the model, and would refuse it again."""

    code = "model_rejected"


class ReplyBlocked(ModelError):
    """Safety rules stopped the prompt or the answer."""

    code = "blocked_by_safety"


class ReplyEmpty(ModelError):
    """The answer has no text. Gemini sends such answers now and then, to prompts that it answers the next time."""

    code = "empty_reply"


class OutputLimit(ModelError):
    """The model spent its whole output limit on thinking, so there is no text."""

    code = "output_limit"


@dataclass(frozen=True)
class ModelRequest:
    """A request to a model. system_parts: parts of the system instruction. read_seconds: the longest silence."""

    turns: Sequence[Turn]
    model: str
    system_parts: list[str]
    read_seconds: float
    headers: Mapping[str, str]
    streamed: bool


class ModelClient(ABC):
    """A client of a model, shared by the threads of a worker process. Each SDK has a subclass.

    generation_config: fields of Google's GenerationConfig, which both SDKs spell alike; None leaves one to the model.
    client: the SDK's own.
    """

    def __init__(
        self,
        *,
        api_key: str,
        endpoint: str,
        model: str,
        system_instruction: str,
        generation_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.generation_config = dict(generation_config or {})
        self.system_instruction = system_instruction
        self.client: Any = self.connect(api_key, endpoint)

    def generate(
        self,
        turns: Sequence[Turn],
        call: BoundedCall,
        *,
        read_seconds: float,
        headers: Mapping[str, str] | None = None,
        on_piece: Callable[[str], None] | None = None,
        model: str | None = None,
        instruction: str | None = None,
    ) -> Answer:
        """Ask for the next turn of a conversation. turns: oldest first, ending with the user's.

        call: entered by the caller; bounds the attempt as a whole. read_seconds: how long the model may send nothing.
        headers: sent along.
        on_piece: asks for a streamed reply, and is called with each piece; together they are the answer's text. If a
        streamed reply runs out of time, its text so far is the answer.
        model: overrides the client's own. instruction: the user's, which never takes precedence over the client's own.
        Raises a ModelError, even after some pieces. Any other error is a defect of ours, not the model's fault.
        """
        # The service's own instruction comes first; the user's is a separate part.
        parts = [part for part in (self.system_instruction, instruction and USERS_INSTRUCTION + instruction) if part]
        request = ModelRequest(
            turns, model or self.model, parts, read_seconds, headers or {}, streamed=on_piece is not None
        )
        try:
            with closing(self.responses(request)) as responses:
                return read_answer(map(self.read_chunk, responses), call, request.model, on_piece)
        except Exception as error:  # if the call was cut off, that is the cause, whatever the error says
            if call.aborted:
                raise CallAborted("aborted") from error
            if call.timed_out:
                raise ModelTimeout(str(error) if isinstance(error, ModelError) else type(error).__name__) from error
            raise

    @abstractmethod
    def connect(self, api_key: str, endpoint: str) -> Any:
        """Return the SDK's client, whose calls obey `BoundedCall`."""

    @abstractmethod
    def responses(self, request: ModelRequest) -> Generator[Any, None, None]:
        """Yield Google's responses. Raises a ModelError for errors of the network and the SDK, and for nothing else."""

    @abstractmethod
    def read_chunk(self, response: Any) -> Chunk:
        """Convert one of the SDK's responses to a chunk."""


def read_answer(
    chunks: Iterator[Chunk], call: BoundedCall, requested_model: str, on_piece: Callable[[str], None] | None
) -> Answer:
    """Join the chunks of a whole response, or of a stream, into an answer. Passes on each piece of a stream.

    If a stream runs out of time, its text so far is the answer. Once its finish reason has come, it is complete,
    even if the connection breaks then.
    Raises ReplyBlocked, ReplyEmpty, OutputLimit, ModelUnavailable, and whatever the chunks raise.
    """
    pieces: list[str] = []
    finish, model, usage = "", requested_model, TokenUsage()
    try:
        for chunk in checked(chunks):
            finish, usage = chunk.finish or finish, merge_usage(usage, chunk.usage)
            model = chunk.model[:MAX_MODEL_CHARS] or model
            # PostgreSQL stores no NUL, and nothing can encode half of a surrogate pair.
            piece = chunk.text.replace("\x00", "").encode(errors="replace").decode()
            if piece:
                pieces.append(piece)
                if on_piece:
                    on_piece(piece)
    except ModelUnavailable as error:
        is_usable = not call.aborted and (finish or call.timed_out or isinstance(error, ModelTimeout))
        if not (is_usable and on_piece and "".join(pieces).strip()):
            raise
        if not finish:
            return Answer("".join(pieces), model, FinishReason.TIME_LIMIT, usage)
    text = "".join(pieces)
    if text.strip():
        return Answer(text, model, FinishReason.MAX_TOKENS if finish == MAX_TOKENS else FinishReason.STOP, usage)
    raise (OutputLimit if finish == MAX_TOKENS else ReplyEmpty)(f"no text, finish reason {finish or 'none'}")


def checked(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks. Raises ReplyBlocked if Google blocks prompt or answer, ModelUnavailable if it breaks off."""
    is_ended = is_begun = has_prompt = False
    for chunk in chunks:
        if chunk.blocked:
            raise ReplyBlocked(f"prompt blocked: {chunk.blocked}")
        if chunk.finish in BLOCKED_FINISHES:
            raise ReplyBlocked(f"answer blocked: {chunk.finish}")
        is_ended, is_begun = is_ended or bool(chunk.finish), is_begun or bool(chunk.text)
        has_prompt = has_prompt or bool(chunk.usage.prompt_tokens)
        yield chunk
    if not is_ended and (is_begun or not has_prompt):  # it would count as a whole answer, or as an empty one
        raise ModelUnavailable("the answer broke off, or never began")


def merge_usage(earlier: TokenUsage, update: TokenUsage) -> TokenUsage:
    """Merge a chunk's usage into the earlier one. Each chunk counts from the beginning of the answer."""
    return TokenUsage(*(new or old for new, old in zip(vars(update).values(), vars(earlier).values(), strict=True)))


def error_of(response: Any) -> ModelError:
    """Translate an HTTP error response. response: of either SDK's HTTP client, with its body read."""
    try:
        body = json.loads(response.content)  # in UTF-8 (RFC 8259), whatever its header says
    except ValueError:  # a gateway's page: the status decides
        body = None
    return error_for(response.status_code, body, response.headers)


def error_for(status: int, body: Any, headers: Mapping[str, str]) -> ModelError:
    """Translate an error of Google's. body: the JSON that holds it, as it came."""
    error = error_in(body)
    details = details_in(error)
    if "PerDay" in str(details.get("QuotaFailure")):  # in the id of a quota
        return ModelUnavailable(f"HTTP {status}: the day's quota at Google is spent", retry_after=DAY_SECONDS)
    if status in TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ModelUnavailable(f"HTTP {status}", retry_after=retry_after_of(details, headers))
    reason = details.get("ErrorInfo", {}).get("reason")
    named = str(reason or error.get("status"))
    # Google's constants only: its message, and whatever a gateway writes, may quote the conversation.
    refusal = f"HTTP {status} {named if CONSTANT.fullmatch(named) else ''}".strip()
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN} or reason == "API_KEY_INVALID":
        return ModelRejected(f"{refusal}: Google refuses GEMINI_API_KEY; set a valid key")
    if status == HTTPStatus.NOT_FOUND:
        return ModelRejected(
            "HTTP 404: Google does not know the model; set GEMINI_MODEL or GEMINI_MODELS to one that it offers"
        )
    return ModelRejected(refusal)


def error_in(body: Any) -> dict[str, Any]:
    """Return a google.rpc.Status, or an empty one: a gateway between Google and us may answer with anything."""
    body = body[0] if isinstance(body, list) and body else body  # in place of a stream, which is an array
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def details_in(error: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the details of a google.rpc.Status by kind."""
    details = error.get("details")
    found = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    return {str(one.get("@type")).rpartition(".")[2]: one for one in reversed(found)}  # the first of a kind


def retry_after_of(details: dict[str, dict[str, Any]], headers: Mapping[str, str]) -> float | None:
    """Return the seconds that Google asks us to wait: google.rpc.RetryInfo, or the header `Retry-After`."""
    delay = str(details.get("RetryInfo", {}).get("retryDelay", "")).removesuffix("s")
    for seconds in (delay, headers.get("Retry-After", "")):
        try:
            return min(DAY_SECONDS, max(0.0, float(seconds)))
        except ValueError:
            continue
    return None


CLIENTS = {  # by GEMINI_SDK: module, class, and the file that installs the library
    "google-generativeai": ("app.integrations.gemini.generativeai", "Gemini", "requirements.txt"),
    "google-genai": ("app.integrations.gemini.genai", "GenAI", "requirements-genai.txt"),
}


class ClientNotConfigured(Exception):
    """There is no key, or the chosen library is not installed; the message is a sentence for the operator."""


def model_client_class(sdk: str) -> Callable[..., ModelClient]:
    """Return the client class for the library that GEMINI_SDK names. Raises ClientNotConfigured."""
    module, name, requirements = CLIENTS[sdk]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the old SDK's end of support: decision 0008
            client: Callable[..., ModelClient] = getattr(import_module(module), name)
    except ImportError as error:
        missing = f"GEMINI_SDK is {sdk}, which is not installed ({error}): install {requirements}."
        raise ClientNotConfigured(missing) from error
    return client
