"""Google Gemini, through google-generativeai's REST client. Imported by the worker alone: it costs 85 MB.

The client below `GenerativeModel` is used: it needs no global `configure()`, and it hands out each piece of a
stream as it comes. Its own retries are off (they hold a 503 for ten minutes).
"""

import json
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any

import requests
from google.ai.generativelanguage import GenerativeServiceClient
from google.api_core.exceptions import GoogleAPICallError
from google.generativeai import protos

from app.integrations.bounded_calls import BoundedAdapter, BoundedCall
from app.integrations.model_calls import (
    Answer,
    CallAborted,
    ModelError,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    ReplyBlocked,
    ReplyEmpty,
    Turn,
)

CONNECTIONS = 256  # kept open to Google at most: as many as a worker has threads, and some
TRANSIENT = {408, 429, 499, 500, 502, 503, 504}
BLOCKED_FINISHES = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "LANGUAGE"}


class Gemini:
    """A `ModelClient` on google-generativeai."""

    def __init__(self, *, api_key: str, endpoint: str, model: str, system_instruction: str) -> None:
        self.model = model
        self.system_instruction = system_instruction
        self.client = GenerativeServiceClient(
            transport="rest", client_options={"api_endpoint": endpoint.rstrip("/"), "api_key": api_key}
        )
        adapter = BoundedAdapter(pool_connections=4, pool_maxsize=CONNECTIONS)
        session: requests.Session = vars(self.client.transport)["_session"]  # google-api-core has no door to it
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
        ask = self.client.stream_generate_content if on_piece else self.client.generate_content
        metadata = [("x-request-id", request_id)] if request_id else []
        try:
            answered = ask(self._request(turns), timeout=timeout_seconds, retry=None, metadata=metadata)
            responses = answered if on_piece else [answered]
            return read_answer(responses, self.model, on_piece or (lambda _: None))
        except ModelError:
            raise
        except Exception as error:
            raise classify(error, call) from error

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
    return Answer(text, model, prompt_tokens, output_tokens)


def unwrap_error(response: requests.Response, **_: Any) -> None:
    """Take an error out of the array that streams have it in, where google-api-core does not look for it."""
    if response.status_code < HTTPStatus.BAD_REQUEST:
        return
    try:
        body = response.json()
    except ValueError:
        return
    if isinstance(body, list) and body:
        response._content = json.dumps(body[0]).encode()


def classify(error: Exception, call: BoundedCall) -> ModelError:
    """What an exception out of the client means for the reply."""
    if call.aborted:
        return CallAborted("aborted")
    if call.timed_out or isinstance(error, requests.Timeout):
        return ModelTimeout(type(error).__name__)
    if isinstance(error, GoogleAPICallError):
        return classify_status(error)
    return ModelUnavailable(type(error).__name__)


def classify_status(error: GoogleAPICallError) -> ModelError:
    status = int(error.code or 0)
    if status in TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ModelUnavailable(f"HTTP {status}", retry_after=retry_after_of(error))
    reason = str(detail_of(error, "google.rpc.ErrorInfo").get("reason", ""))
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN} or reason == "API_KEY_INVALID":
        return ModelRejected(f"HTTP {status} {reason}: Google refuses GEMINI_API_KEY; mend the key")
    if status == HTTPStatus.NOT_FOUND:
        return ModelRejected("HTTP 404: Google does not know GEMINI_MODEL; name a model that it offers")
    return ModelRejected(f"HTTP {status} {reason}".strip())


def retry_after_of(error: GoogleAPICallError) -> float | None:
    """Seconds that Google asks to wait: google.rpc.RetryInfo, or the header `Retry-After`."""
    delay = str(detail_of(error, "google.rpc.RetryInfo").get("retryDelay", "")).removesuffix("s")
    header = getattr(error.response, "headers", {}).get("Retry-After", "")
    for seconds in (delay, header):
        try:
            return max(0.0, float(seconds))
        except ValueError:
            continue
    return None


def detail_of(error: GoogleAPICallError, kind: str) -> dict[str, Any]:
    """One of the details that Google adds to an error; over REST they are plain dicts."""
    details = (detail for detail in error.details if isinstance(detail, dict))
    return next((detail for detail in details if str(detail.get("@type", "")).endswith(kind)), {})
