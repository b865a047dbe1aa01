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
from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError, from_http_status
from google.auth.exceptions import GoogleAuthError
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
)

# What the network and the SDK raise; ValueErrors are those of an answer that cannot be read.
SDK_ERRORS = (
    GoogleAPIError,
    GoogleAuthError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    json_format.Error,
    OSError,
    ValueError,
)
# Messages of protobuf: the fields of proto-plus, which wraps them, cost ten times as much.
REQUEST = type(protos.GenerateContentRequest.pb(protos.GenerateContentRequest()))
RESPONSE = type(protos.GenerateContentResponse.pb(protos.GenerateContentResponse()))
NO_CANDIDATE = protos.Candidate.pb(protos.Candidate())
REASONS: Any = (protos.Candidate.FinishReason, protos.GenerateContentResponse.PromptFeedback.BlockReason)
# Google has more of them by now than the library knows.
FINISHES, BLOCKS = ({int(reason): reason.name for reason in reasons} for reasons in REASONS)
BETWEEN_RESPONSES = "[], \t\r\n"  # of a stream, which is an array


class Gemini(ModelClient):
    """A `ModelClient` on google-generativeai."""

    def connect(self, api_key: str, endpoint: str) -> GenerativeServiceClient:
        """The SDK's client; its session's calls bounded, and its responses mended."""
        client = GenerativeServiceClient(
            transport="rest", client_options={"api_endpoint": endpoint.rstrip("/"), "api_key": api_key}
        )
        session = vars(client.transport)["_session"]  # google-api-core does not show it
        adapter = BoundedAdapter(pool_connections=4, pool_maxsize=CONNECTIONS)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        session._refresh_status_codes = ()  # it would send a request that is answered 401 twice more
        session.hooks["response"] += [refuse_redirect, read_as_it_comes, unwrap_error]
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
                yield self.client.generate_content(request, **options)
        except SDK_ERRORS as error:
            raise classify(error) from error

    def read_chunk(self, response: Any) -> Chunk:
        """What a response tells. Its messages know no thinking tokens: they are what is left of the total."""
        message = type(response).pb(response)
        candidate = message.candidates[0] if message.candidates else NO_CANDIDATE
        usage, finish, block_reason = (
            message.usage_metadata,
            candidate.finish_reason,
            message.prompt_feedback.block_reason,
        )
        prompt_tokens, output_tokens = usage.prompt_token_count, usage.candidates_token_count
        return Chunk(
            text="".join(part.text for part in candidate.content.parts),
            finish=FINISHES.get(finish, str(finish)) if finish else "",
            blocked=BLOCKS.get(block_reason, str(block_reason)) if block_reason else "",
            model=message.model_version,
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
    if isinstance(error, GoogleAPICallError):
        return error_for(int(error.code or 0), list(error.details), getattr(error.response, "headers", {}))
    return ModelUnavailable(type(error).__name__)


def read_stream(stream: Any) -> Iterator[Any]:
    """The responses of a stream, as they come. Raises a ModelError when Google ends it with an error.

    google-api-core takes a stream apart character by character, in time that grows with the square of a response's
    length, whatever the call's bound; and it reads an error as a response without any known field.
    """
    decoder, rest = json.JSONDecoder(), ""
    for text in stream._response_itr:  # it has no door to the text
        rest = (rest + text).lstrip(BETWEEN_RESPONSES)
        while rest:
            if rest[0] != "{":
                raise ValueError("no array of responses")
            try:
                response, end = decoder.raw_decode(rest)
            except ValueError:  # its end has not come yet
                break
            rest = rest[end:].lstrip(BETWEEN_RESPONSES)
            raise_error_in(response)
            message = json_format.ParseDict(response, RESPONSE(), ignore_unknown_fields=True)
            yield protos.GenerateContentResponse.wrap(message)
    if rest:
        raise ValueError("a response without an end")


def raise_error_in(response: dict[str, Any]) -> None:
    """Raises a ModelError for what is an error, and no response."""
    error = response.get("error")
    if isinstance(error, dict):
        code, details = error.get("code"), error.get("details")
        status = code if isinstance(code, int) else HTTPStatus.INTERNAL_SERVER_ERROR
        raise error_for(status, details if isinstance(details, list) else [], {})


def refuse_redirect(response: requests.Response, **_: Any) -> None:
    """Follow no redirect: requests would send the key and the conversation wherever it leads.

    Raises GoogleAPICallError with the redirect's status.
    """
    if response.is_redirect:
        response.close()
        raise from_http_status(response.status_code, "a redirect")  # type: ignore[no-untyped-call]


def unwrap_error(response: requests.Response, **_: Any) -> None:
    """Take an error out of the array that streams have it in, where google-api-core does not look for it.

    What is in no form of Google's is left out, so that the status decides: google-api-core would stumble over it.
    """
    if response.status_code < HTTPStatus.BAD_REQUEST:
        return
    try:
        body = response.json()
    except ValueError:
        return
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        details = error.get("details")
        error["details"] = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    response._content = json.dumps({"error": error} if isinstance(error, dict) else {}).encode()


def read_as_it_comes(response: requests.Response, **_: Any) -> None:
    """Let a stream be read in the network's chunks; google-api-core would have it byte by byte, for twice the CPU.

    JSON is in UTF-8 (RFC 8259), whatever a gateway says of it.
    """
    response.encoding = "utf-8"
    iterate = response.iter_content

    def iter_content(chunk_size: int | None = None, decode_unicode: bool = False) -> Iterator[Any]:
        return iterate(chunk_size, decode_unicode)

    response.iter_content = iter_content  # type: ignore[method-assign]
