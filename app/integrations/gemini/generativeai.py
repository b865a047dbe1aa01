"""Google Gemini, through google-generativeai's REST client. Imported by the worker alone: see decision 0008.

The client below `GenerativeModel` is used: it needs no global `configure()`, and it hands out each piece of a
stream as it comes. Its own retries are off (they hold a 503 for ten minutes).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any

import requests
import urllib3
from google.ai.generativelanguage import GenerativeServiceClient
from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from google.generativeai import protos
from google.protobuf import json_format

from app.integrations.bounded_calls import BoundedAdapter, BoundedCall
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

# What the network and the SDK raise; ValueErrors are those of an answer that cannot be read.
MODELS_ERRORS = (
    GoogleAPIError,
    GoogleAuthError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    json_format.Error,
    OSError,
    ValueError,
)


class Gemini:
    """A `ModelClient` on google-generativeai."""

    def __init__(self, *, api_key: str, endpoint: str, model: str, system_instruction: str) -> None:
        self.model = model
        self.system_instruction = system_instruction
        self.client = GenerativeServiceClient(
            transport="rest", client_options={"api_endpoint": endpoint.rstrip("/"), "api_key": api_key}
        )
        adapter = BoundedAdapter(pool_connections=4, pool_maxsize=CONNECTIONS)
        session: requests.Session = vars(self.client.transport)["_session"]  # google-api-core does not show it
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        session.hooks["response"].append(unwrap_error)

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
        options: dict[str, Any] = {
            "timeout": timeout_seconds,
            "retry": None,
            "metadata": [("x-request-id", request_id)] if request_id else [],
        }
        with ended_by(call):
            responses = self._responses(self._request(turns), options, streamed=on_piece is not None)
            return read_answer(responses, self.model, on_piece or (lambda _: None))

    def _responses(self, request: Any, options: dict[str, Any], *, streamed: bool) -> Iterator[Any]:
        """What Google answers. Raises a ModelError for what the network and the SDK raise, and for nothing else."""
        try:
            if streamed:
                yield from self.client.stream_generate_content(request, **options)
            else:
                yield self.client.generate_content(request, **options)
        except MODELS_ERRORS as error:
            raise classify(error) from error

    def _request(self, turns: Sequence[Turn]) -> Any:
        return protos.GenerateContentRequest(
            model=f"models/{self.model}",
            contents=[protos.Content(role=turn.role, parts=[protos.Part(text=turn.text)]) for turn in turns],
            system_instruction=protos.Content(parts=[protos.Part(text=self.system_instruction)])
            if self.system_instruction
            else None,
        )


def read_answer(responses: Iterable[Any], model: str, on_piece: Callable[[str], None]) -> Answer:
    """The text of one response, or of a stream of them. Raises ReplyBlocked, ReplyEmpty."""
    pieces: list[str] = []
    finish, prompt_tokens, output_tokens = "none", 0, 0
    for response in responses:
        if response.prompt_feedback.block_reason:
            raise ReplyBlocked(f"prompt blocked: {response.prompt_feedback.block_reason.name}")
        usage = response.usage_metadata
        prompt_tokens = usage.prompt_token_count or prompt_tokens
        output_tokens = usage.candidates_token_count or output_tokens
        if not response.candidates:
            continue
        candidate = response.candidates[0]
        finish = candidate.finish_reason.name
        if finish in BLOCKED_FINISHES:
            raise ReplyBlocked(f"answer blocked: {finish}")
        piece = "".join(part.text for part in candidate.content.parts).replace("\x00", "")
        if piece:
            pieces.append(piece)
            on_piece(piece)
    text = "".join(pieces)
    if not text.strip():
        raise ReplyEmpty(f"no text, finish reason {finish}")
    finish_reason = FinishReason.MAX_TOKENS if finish == "MAX_TOKENS" else FinishReason.STOP
    usage = Usage(prompt_tokens, output_tokens, total_tokens=prompt_tokens + output_tokens)
    return Answer(text, model, finish_reason, usage)


def unwrap_error(response: requests.Response, **_: Any) -> None:
    """Take an error out of the array that streams have it in, where google-api-core does not look for it.

    One in no form of Google's is left out, so that its status decides: google-api-core would stumble over it.
    """
    if response.status_code < HTTPStatus.BAD_REQUEST:
        return
    try:
        body = response.json()
    except ValueError:
        return
    if isinstance(body, list) and body:
        body = body[0]
    is_googles = isinstance(body, dict) and isinstance(body.get("error"), dict)
    response._content = json.dumps(body if is_googles else {}).encode()


def classify(error: Exception) -> ModelError:
    """What one of MODELS_ERRORS means for the reply."""
    if isinstance(error, requests.Timeout):
        return ModelTimeout(type(error).__name__)
    if isinstance(error, GoogleAPICallError):
        return error_for(int(error.code or 0), list(error.details), getattr(error.response, "headers", {}))
    return ModelUnavailable(type(error).__name__)
