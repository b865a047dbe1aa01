"""httpcore's connections, made to obey `BoundedCall`; with google-genai alone.

Google Gemini, through google-genai. Imported by the worker alone, and only when GEMINI_SDK chooses it.

What the library would do beyond one request is off: calling functions, asking for continuations.
"""

import logging
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

import httpcore2
import httpx2
from google import genai
from google.genai import errors, types

from app.integrations.bounded_calls import BoundedCall, current_call
from app.integrations.gemini.client import (
    BLOCKED_FINISHES,
    CONNECTIONS,
    Answer,
    FinishReason,
    ModelError,
    ModelTimeout,
    ModelUnavailable,
    ReplyBlocked,
    ReplyEmpty,
    Turn,
    Usage,
    ended_by,
    error_for,
)


def bound(client: httpx2.Client) -> httpx2.Client:
    """Make the client's calls obey `BoundedCall`, those through a proxy of the environment's too."""
    for transport in (client._transport, *client._mounts.values()):  # httpx2 has no door to the network backend
        if isinstance(transport, httpx2.HTTPTransport):
            transport._pool._network_backend = BoundedBackend()
    client.event_hooks["request"].append(release_after_answer)
    return client


def release_after_answer(request: httpx2.Request) -> None:
    """Let the thread's call forget the connection before it goes back into its pool."""
    call = current_call()

    def trace(event: str, _: Any) -> None:
        if call is not None and event == "http11.response_closed.started":
            call.release_socket()

    request.extensions = {**request.extensions, "trace": trace}


def bind_socket(connection: socket.socket) -> None:
    call = current_call()
    if call is not None:
        call.bind_socket(connection)


class BoundedBackend(httpcore2.SyncBackend):
    """Opens connections that tell the thread's call about themselves."""

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore2.NetworkStream:
        return BoundedStream(super().connect_tcp(*args, **kwargs))


class BoundedStream(httpcore2.NetworkStream):
    """A connection that tells the thread's call which socket it is, with each request that it carries."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream
        self._socket = stream.get_extra_info("socket")

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        bind_socket(self._socket)
        self._stream.write(buffer, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, timeout)

    def start_tls(self, *args: Any, **kwargs: Any) -> httpcore2.NetworkStream:
        with self._socket.dup() as handle:  # the socket itself is emptied before the handshake
            bind_socket(handle)
            return BoundedStream(self._stream.start_tls(*args, **kwargs))

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


KEEP_ALIVE_SECONDS = 60  # bridges a pause between prompts; httpx2 would begin anew with TLS after 5
LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=CONNECTIONS, keepalive_expiry=KEEP_ALIVE_SECONDS)
# What the network and the SDK raise; ValueErrors are those of an answer that cannot be read.
MODELS_ERRORS = (errors.APIError, httpx2.HTTPError, OSError, ValueError)

logging.getLogger("httpx2").setLevel(logging.WARNING)  # it would tell of every request


class GenAI:
    """A `ModelClient` on google-genai."""

    def __init__(self, *, api_key: str, endpoint: str, model: str, system_instruction: str) -> None:
        self.model = model
        self.system_instruction = system_instruction
        self.client = genai.Client(
            enterprise=False,
            api_key=api_key,
            http_options=types.HttpOptions(
                base_url=endpoint, api_version="v1beta", httpx_client=bound(httpx2.Client(limits=LIMITS))
            ),
        )

    def generate(
        self,
        turns: Sequence[Turn],
        call: BoundedCall,
        *,
        timeout_seconds: float,
        request_id: str | None = None,
        on_piece: Callable[[str], None] | None = None,
    ) -> Answer:
        """See `ModelClient.generate`."""
        request: Any = {
            "model": f"models/{self.model}",
            "contents": [types.Content(role=turn.role, parts=[types.Part(text=turn.text)]) for turn in turns],
            "config": types.GenerateContentConfig(
                system_instruction=self.system_instruction or None,
                automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
                automatic_continuation=False,
                http_options=types.HttpOptions(
                    timeout=max(1, round(timeout_seconds * 1000)),  # 0 would mean for ever
                    headers={"x-request-id": request_id} if request_id else {},
                ),
            ),
        }
        with ended_by(call), closing(self._responses(request, streamed=on_piece is not None)) as responses:
            return read_answer(responses, self.model, on_piece or (lambda _: None))

    def _responses(self, request: Any, *, streamed: bool) -> Generator[types.GenerateContentResponse, None, None]:
        """What Google answers. Raises a ModelError for what the network and the SDK raise, and for nothing else."""
        try:
            if streamed:
                yield from self.client.models.generate_content_stream(**request)
            else:
                yield self.client.models.generate_content(**request)
        except MODELS_ERRORS as error:
            raise classify(error) from error


def read_answer(
    responses: Iterator[types.GenerateContentResponse], model: str, on_piece: Callable[[str], None]
) -> Answer:
    """The text of one response, or of a stream of them. Raises ReplyBlocked, ReplyEmpty, ModelUnavailable."""
    pieces: list[str] = []
    finish, prompt_tokens, output_tokens = "none", 0, 0
    for response in responses:
        if response.prompt_feedback and response.prompt_feedback.block_reason:
            raise ReplyBlocked(f"prompt blocked: {response.prompt_feedback.block_reason.name}")
        if response.usage_metadata:
            prompt_tokens = response.usage_metadata.prompt_token_count or prompt_tokens
            output_tokens = response.usage_metadata.candidates_token_count or output_tokens
        if not response.candidates:
            continue
        candidate = response.candidates[0]
        finish = candidate.finish_reason.name if candidate.finish_reason else finish
        if finish in BLOCKED_FINISHES:
            raise ReplyBlocked(f"answer blocked: {finish}")
        piece = text_of(candidate)
        if piece:
            pieces.append(piece)
            on_piece(piece)
    text = "".join(pieces)
    if finish == "none" and (text or not prompt_tokens):
        raise ModelUnavailable("the answer broke off, or never began")  # it would pass for a whole one, or an empty one
    if not text.strip():
        raise ReplyEmpty(f"no text, finish reason {finish}")
    finish_reason = FinishReason.MAX_TOKENS if finish == "MAX_TOKENS" else FinishReason.STOP
    usage = Usage(prompt_tokens, output_tokens, total_tokens=prompt_tokens + output_tokens)
    return Answer(text, model, finish_reason, usage)


def text_of(candidate: types.Candidate) -> str:
    parts = (candidate.content and candidate.content.parts) or []
    return "".join(part.text or "" for part in parts if not part.thought).replace("\x00", "")


def classify(error: Exception) -> ModelError:
    """What one of MODELS_ERRORS means for the reply."""
    if isinstance(error, httpx2.TimeoutException):
        return ModelTimeout(type(error).__name__)
    if isinstance(error, errors.APIError):
        return error_for(int(error.code or 0), details_of(error), getattr(error.response, "headers", {}))
    return ModelUnavailable(type(error).__name__)


def details_of(error: errors.APIError) -> list[Any]:
    """The details of google.rpc.Status; what stands between Google and us may answer with anything."""
    body = error.details.get("error") if isinstance(error.details, dict) else None
    details = body.get("details") if isinstance(body, dict) else None
    return details if isinstance(details, list) else []
