"""Google Gemini, through google-genai. Imported only when GEMINI_SDK chooses it: decision 0008.

Whatever the library would do beyond one request is off: function calls and continuations. Its httpcore connections obey
`BoundedCall`, as those of requests do.
"""

import socket
from collections.abc import Generator
from typing import Any

import httpcore2
import httpx2
from google import genai
from google.genai import errors, types
from httpcore2._backends.sync import SyncStream

from app.integrations.bounded_calls import bind_socket, current_call, open_socket
from app.integrations.gemini.client import (
    CONNECTIONS,
    Chunk,
    ModelClient,
    ModelError,
    ModelRequest,
    ModelTimeout,
    ModelUnavailable,
    TokenUsage,
    error_for,
    error_of,
)

KEEP_ALIVE_SECONDS = 60  # bridges a pause between prompts; httpx2 closes after 5 by default, and TLS starts again
LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=CONNECTIONS, keepalive_expiry=KEEP_ALIVE_SECONDS)
OPTIONS = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]  # as httpcore2 sets it
# What the network and the SDK raise. An unreadable response raises a ValueError, and one that is nested too deep a
# RecursionError.
SDK_ERRORS = (errors.APIError, httpx2.HTTPError, OSError, ValueError, RecursionError)


class GenAI(ModelClient):
    """A `ModelClient` on google-genai."""

    client: genai.Client

    def connect(self, api_key: str, endpoint: str) -> genai.Client:
        """See `ModelClient.connect`."""
        return genai.Client(
            enterprise=False,
            api_key=api_key,
            http_options=types.HttpOptions(
                base_url=endpoint, api_version="v1beta", httpx_client=bound(httpx2.Client(limits=LIMITS))
            ),
        )

    def responses(self, request: ModelRequest) -> Generator[types.GenerateContentResponse, None, None]:
        """See `ModelClient.responses`."""
        arguments: Any = {
            "model": f"models/{request.model}",
            "contents": [types.Content(role=turn.role, parts=[types.Part(text=turn.text)]) for turn in request.turns],
            "config": types.GenerateContentConfig(
                system_instruction=types.Content(parts=[types.Part(text=part) for part in request.system_parts])
                if request.system_parts
                else None,
                **self.generation_config,
                automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
                automatic_continuation=False,
                http_options=types.HttpOptions(
                    timeout=max(1, round(request.read_seconds * 1000)),  # 0 would mean for ever
                    headers=dict(request.headers),
                ),
            ),
        }
        try:
            if request.streamed:
                yield from self.client.models.generate_content_stream(**arguments)
            else:
                yield self.client.models.generate_content(**arguments)
        except SDK_ERRORS as error:
            raise classify(error) from error

    def read_chunk(self, response: types.GenerateContentResponse) -> Chunk:
        """Convert a response. Thoughts, executed code and its results are not part of the text."""
        feedback = response.prompt_feedback
        usage = response.usage_metadata or types.GenerateContentResponseUsageMetadata()
        candidate = response.candidates[0] if response.candidates else types.Candidate()
        parts = (candidate.content and candidate.content.parts) or []
        prompt_tokens, output_tokens = usage.prompt_token_count or 0, usage.candidates_token_count or 0
        thinking_tokens = usage.thoughts_token_count or 0
        return Chunk(
            text="".join(part.text or "" for part in parts if not part.thought),
            finish=candidate.finish_reason.name if candidate.finish_reason else "",
            blocked=feedback.block_reason.name if feedback and feedback.block_reason else "",
            model=response.model_version or "",
            usage=TokenUsage(
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                thinking_tokens=thinking_tokens,
                cached_tokens=usage.cached_content_token_count or 0,
                total_tokens=usage.total_token_count or prompt_tokens + output_tokens + thinking_tokens,
            ),
        )


def classify(error: Exception) -> ModelError:
    """Translate one of SDK_ERRORS."""
    if isinstance(error, httpx2.TimeoutException):
        return ModelTimeout(type(error).__name__)
    if isinstance(error, errors.APIError):
        return error_for(int(error.code or 0), error.details, {})
    return ModelUnavailable(type(error).__name__)


def bound(client: httpx2.Client) -> httpx2.Client:
    """Make the client's calls obey `BoundedCall`, also those through a proxy from the environment."""
    for transport in (client._transport, *client._mounts.values()):  # httpx2 does not expose the network backend
        if isinstance(transport, httpx2.HTTPTransport):
            transport._pool._network_backend = BoundedBackend()
    client.event_hooks["request"] += [remove_deadline, release_after_answer]
    client.event_hooks["response"].append(raise_error)
    return client


def raise_error(response: httpx2.Response) -> None:
    """Raise a ModelError for an error or a redirect: the SDK says nothing about a body that is not in UTF-8."""
    if not response.is_success:
        response.read()
        raise error_of(response)


def remove_deadline(request: httpx2.Request) -> None:
    """Remove what the SDK makes of our time-out for a read: a deadline for the whole answer, of 10 s at least."""
    request.headers.pop("X-Server-Timeout", None)


def release_after_answer(request: httpx2.Request) -> None:
    """Let the thread's call forget the connection before it goes back into its pool."""
    call = current_call()

    def trace(event: str, _: Any) -> None:
        if call is not None and event == "http11.response_closed.started":
            call.release_socket()

    request.extensions = {**request.extensions, "trace": trace}


class BoundedBackend(httpcore2.SyncBackend):
    """Opens connections that the thread's call bounds. Ignores the options that our client never sets."""

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *_: Any, **__: Any
    ) -> httpcore2.NetworkStream:
        try:
            return BoundedStream(SyncStream(open_socket(host, port, timeout, OPTIONS)))
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout("no address answers") from error
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error


class BoundedStream(httpcore2.NetworkStream):
    """A connection that binds its socket to the thread's call with each request that it carries."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream
        self._socket = stream.get_extra_info("socket")

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        bind_socket(self._socket.fileno())
        self._stream.write(buffer, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, timeout)

    def start_tls(self, *args: Any, **kwargs: Any) -> httpcore2.NetworkStream:
        return BoundedStream(self._stream.start_tls(*args, **kwargs))

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
