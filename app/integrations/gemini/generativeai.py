"""Google Gemini, through google-generativeai's REST client. Imported only when GEMINI_SDK chooses it: decision 0008.

The client below `GenerativeModel` is used: it needs no global `configure()`, and it hands out each piece of a
stream as it comes. Its own retries are off (they hold a 503 for ten minutes).
"""

import json
from collections.abc import Generator, Iterator
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

# What the network and the SDK raise; OSErrors are those of requests too, ValueErrors those of an unreadable answer.
SDK_ERRORS = (urllib3.exceptions.HTTPError, json_format.Error, OSError, ValueError)
# Messages of protobuf: the fields of proto-plus, which wraps them, cost ten times as much.
REQUEST, RESPONSE = protos.GenerateContentRequest.pb(), protos.GenerateContentResponse.pb()
NO_CANDIDATE = protos.Candidate.pb(protos.Candidate())
REASONS: Any = (protos.Candidate.FinishReason, protos.GenerateContentResponse.PromptFeedback.BlockReason)
# Google has more of them by now than the library knows.
FINISHES, BLOCKS = ({int(reason): reason.name for reason in reasons} for reasons in REASONS)
BETWEEN_RESPONSES = "[], \t\r\n"  # of a stream, which is an array


class Gemini(ModelClient):
    """A `ModelClient` on google-generativeai."""

    def connect(self, api_key: str, endpoint: str) -> GenerativeServiceClient:
        """The SDK's client, with the calls of its session bounded."""
        client = GenerativeServiceClient(
            transport="rest", client_options={"api_endpoint": endpoint.rstrip("/"), "api_key": api_key}
        )
        session = vars(client.transport)["_session"]  # google-api-core does not show it
        adapter = BoundedAdapter(pool_connections=4, pool_maxsize=CONNECTIONS)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        session.hooks["response"].append(raise_error)
        # Which proxy and which certificates: the environment is read once, and not for each call.
        found = session.merge_environment_settings(endpoint, {}, None, None, None)
        session.proxies, session.verify, session.trust_env = found["proxies"], found["verify"], False
        return client

    def responses(self, asked: ModelRequest) -> Generator[Any, None, None]:
        """See `ModelClient.responses`."""
        message = REQUEST(
            model=f"models/{asked.model}",
            contents=[{"role": turn.role, "parts": [{"text": turn.text}]} for turn in asked.turns],
            system_instruction={"parts": [{"text": part} for part in asked.system_parts]}
            if asked.system_parts
            else None,
            generation_config=self.generation_config,
        )
        request = protos.GenerateContentRequest.wrap(message)
        options = {"timeout": asked.read_seconds, "retry": None, "metadata": list(asked.headers.items())}
        try:
            if asked.streamed:
                yield from read_stream(self.client.stream_generate_content(request, **options))
            else:
                yield protos.GenerateContentResponse.pb(self.client.generate_content(request, **options))
        except SDK_ERRORS as error:
            raise classify(error) from error

    def read_chunk(self, response: Any) -> Chunk:
        """What a message of protobuf tells. It knows no thinking tokens: they are what is left of the total."""
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
    """What one of SDK_ERRORS means for the reply."""
    cause = error.args[0] if error.args else None  # requests says so of a stream that falls silent
    if isinstance(error, requests.Timeout) or isinstance(cause, urllib3.exceptions.ReadTimeoutError):
        return ModelTimeout(type(error).__name__)
    return ModelUnavailable(type(error).__name__)


def read_stream(stream: Any) -> Iterator[Any]:
    """The responses of a stream, as they come. Raises a ModelError when Google ends it with an error.

    google-api-core takes a stream apart character by character, in time that grows with the square of a response's
    length, whatever the call's bound; and it reads an error as a response without any known field.
    """
    decoder, rest = json.JSONDecoder(), ""
    answer: requests.Response = stream._response  # it has no door to the text
    answer.encoding = "utf-8"  # as JSON is (RFC 8259), whatever a gateway says
    for text in answer.iter_content(None, decode_unicode=True):  # in the network's pieces, not bytes: half the CPU
        rest = (rest + text).lstrip(BETWEEN_RESPONSES)
        while rest:
            if rest[0] != "{":
                raise ValueError("no array of responses")
            try:
                response, end = decoder.raw_decode(rest)
            except ValueError:  # its end has not come yet
                break
            rest = rest[end:].lstrip(BETWEEN_RESPONSES)
            if isinstance(response.get("error"), dict):
                code = response["error"].get("code")
                raise error_for(code if isinstance(code, int) else HTTPStatus.INTERNAL_SERVER_ERROR, response, {})
            yield json_format.ParseDict(response, RESPONSE(), ignore_unknown_fields=True)
    if rest:
        raise ValueError("a response without an end")


def raise_error(response: requests.Response, **_: Any) -> None:
    """Raises a ModelError for an error answer, which may be in no form that google-api-core can read, or a redirect.

    requests would send the key and the conversation wherever a redirect leads.
    """
    if response.is_redirect or not response.ok:
        raise error_of(response)
