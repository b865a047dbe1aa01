"""Google Gemini, through google-generativeai's REST client. Imported only when GEMINI_SDK chooses it: decision 0008.

It uses the client below `GenerativeModel`, which needs no global `configure()` and yields each piece of a stream as it
arrives. The client's own retries are off: they would retry a 503 for ten minutes.
"""

import codecs
import json
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial
from http import HTTPStatus
from typing import Any

import requests
import urllib3
from google.ai.generativelanguage import GenerativeServiceClient
from google.generativeai import protos
from google.protobuf import json_format

from app.integrations.bounded_calls import BoundedAdapter
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

# What the network and the SDK raise. Errors of requests are OSErrors. An unreadable response raises a ValueError, and
# one that is nested too deep a RecursionError.
SDK_ERRORS = (urllib3.exceptions.HTTPError, json_format.Error, OSError, ValueError, RecursionError)
TIMEOUTS = (requests.Timeout, urllib3.exceptions.ReadTimeoutError)
# Plain protobuf messages: access to fields through proto-plus, which wraps them, costs ten times as much.
REQUEST, RESPONSE = protos.GenerateContentRequest.pb(), protos.GenerateContentResponse.pb()
NO_CANDIDATE = protos.Candidate.pb(protos.Candidate())
REASONS: Any = (protos.Candidate.FinishReason, protos.GenerateContentResponse.PromptFeedback.BlockReason)
# By number, because Google has more of them by now than the library knows.
FINISHES, BLOCKS = ({int(reason): reason.name for reason in reasons} for reasons in REASONS)
BETWEEN_RESPONSES = "[], \t\r\n"  # of a stream, which is an array
PIECE_BYTES = 1024 * 1024  # of a stream, read at once


class Gemini(ModelClient):
    """A `ModelClient` on google-generativeai."""

    def connect(self, api_key: str, endpoint: str) -> GenerativeServiceClient:
        """Return the SDK's client, with the calls of its session bounded."""
        client = GenerativeServiceClient(
            transport="rest", client_options={"api_endpoint": endpoint.rstrip("/"), "api_key": api_key}
        )
        session = vars(client.transport)["_session"]  # google-api-core does not expose it
        adapter = BoundedAdapter(pool_connections=4, pool_maxsize=CONNECTIONS)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        session.hooks["response"] += [raise_error, remove_thoughts]
        # The proxy and the certificates: the environment is read once, not for each call.
        found = session.merge_environment_settings(endpoint, {}, None, None, None)
        session.proxies, session.verify, session.trust_env = found["proxies"], found["verify"], False
        return client

    def responses(self, request: ModelRequest) -> Generator[Any, None, None]:
        """See `ModelClient.responses`."""
        message = REQUEST(
            model=f"models/{request.model}",
            contents=[{"role": turn.role, "parts": [{"text": turn.text}]} for turn in request.turns],
            system_instruction={"parts": [{"text": part} for part in request.system_parts]}
            if request.system_parts
            else None,
            generation_config=self.generation_config,
        )
        sdk_request = protos.GenerateContentRequest.wrap(message)
        options = {"timeout": request.read_seconds, "retry": None, "metadata": list(request.headers.items())}
        try:
            if request.streamed:
                yield from read_stream(self.client.stream_generate_content(sdk_request, **options))
            else:
                yield protos.GenerateContentResponse.pb(self.client.generate_content(sdk_request, **options))
        except SDK_ERRORS as error:
            raise classify(error) from error

    def read_chunk(self, response: Any) -> Chunk:
        """Convert a protobuf message. It has no thinking tokens: they are what is left of the total."""
        candidate = response.candidates[0] if response.candidates else NO_CANDIDATE
        usage, finish = response.usage_metadata, candidate.finish_reason
        block_reason = response.prompt_feedback.block_reason
        prompt_tokens, output_tokens = usage.prompt_token_count, usage.candidates_token_count
        return Chunk(
            text="".join(part.text for part in candidate.content.parts),
            finish=FINISHES.get(finish, str(finish)) if finish else "",
            blocked=BLOCKS.get(block_reason, str(block_reason)) if block_reason else "",
            model=response.model_version,
            usage=TokenUsage(
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                thinking_tokens=max(0, usage.total_token_count - prompt_tokens - output_tokens),
                cached_tokens=usage.cached_content_token_count,
                total_tokens=usage.total_token_count or prompt_tokens + output_tokens,
            ),
        )


def classify(error: Exception) -> ModelError:
    """Translate one of SDK_ERRORS."""
    cause = error.args[0] if error.args else None  # how requests reports an error answer that falls silent
    if isinstance(error, TIMEOUTS) or isinstance(cause, TIMEOUTS):
        return ModelTimeout(type(error).__name__)
    return ModelUnavailable(type(error).__name__)


def read_stream(stream: Any) -> Iterator[Any]:
    """Yield the responses of a stream as they arrive. Raises a ModelError if it is not one, breaks off or has an error.

    google-api-core parses a stream character by character, in time that grows with the square of a response's length,
    and no bound on the call stops it. It also reads an error as a response without any known field.
    """
    decoder, rest = json.JSONDecoder(object_hook=without_thought), ""
    with closing(stream._response.raw) as answer:  # it gives no public access to the bytes
        # Piece by piece, even if the answer is not chunked: requests would wait for the end of that one. Only with a
        # size does urllib3 refuse an answer that is shorter than its Content-Length.
        pieces = iter(partial(answer.read1, PIECE_BYTES, decode_content=True), b"")
        for text in codecs.iterdecode(pieces, "utf-8", "replace"):  # as JSON is (RFC 8259), whatever a gateway says
            rest = (rest + text).lstrip(BETWEEN_RESPONSES)
            while rest:
                if rest[0] != "{":
                    raise ModelUnavailable("the answer is not a stream of responses")
                try:
                    response, end = decoder.raw_decode(rest)
                except ValueError:  # its end has not arrived yet
                    break
                rest = rest[end:].lstrip(BETWEEN_RESPONSES)
                if isinstance(response.get("error"), dict):
                    code = response["error"].get("code")
                    raise error_for(code if isinstance(code, int) else HTTPStatus.INTERNAL_SERVER_ERROR, response, {})
                yield json_format.ParseDict(response, RESPONSE(), ignore_unknown_fields=True)
    if rest:
        raise ModelUnavailable("the answer broke off within a response")


def raise_error(response: requests.Response, **_: Any) -> None:
    """Raise a ModelError for a redirect, or for an error response, which google-api-core may not be able to read.

    requests would send the key and the conversation wherever a redirect leads.
    """
    if response.is_redirect or not response.ok:
        raise error_of(response)


def remove_thoughts(response: requests.Response, *, stream: bool, **_: Any) -> None:
    """Remove the thoughts from a whole answer. Gemma sends some unasked, and to the SDK they look like text."""
    if not stream and b'"thought"' in response.content:
        response._content = json.dumps(json.loads(response.content, object_hook=without_thought)).encode()


def without_thought(part: dict[str, Any]) -> dict[str, Any]:
    """Return a part as it is, or an empty one in place of a thought."""
    return {} if part.get("thought") else part
