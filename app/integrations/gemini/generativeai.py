"""Google Gemini, through google-generativeai's REST client. Imported by the worker alone: see decision 0008.

The client below `GenerativeModel` is used: it needs no global `configure()`, and it hands out each piece of a
stream as it comes. Its own retries are off (they hold a 503 for ten minutes).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import requests
import urllib3
from google.ai.generativelanguage import GenerativeServiceClient
from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from google.generativeai import protos
from google.protobuf import json_format

from app.integrations.bounded_calls import BoundedCall
from app.integrations.gemini.answers import Chunk, ended_by, error_for, read_answer
from app.integrations.gemini.client import Answer, ModelError, ModelTimeout, ModelUnavailable, Turn, Usage, instructions
from app.integrations.gemini.rest import prepare

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

    def __init__(
        self, *, api_key: str, endpoint: str, model: str, system_instruction: str, max_output_tokens: int = 0
    ) -> None:
        self.model = model
        self.max_output_tokens = max_output_tokens
        self.system_instruction = system_instruction
        self.client = GenerativeServiceClient(
            transport="rest", client_options={"api_endpoint": endpoint.rstrip("/"), "api_key": api_key}
        )
        prepare(vars(self.client.transport)["_session"])  # google-api-core does not show it

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
        """See `ModelClient.generate`."""
        options: dict[str, Any] = {
            "timeout": read_seconds,
            "retry": None,
            "metadata": list((headers or {}).items()),
        }
        with ended_by(call):
            request = self._request(turns, model or self.model, instructions(self.system_instruction, instruction))
            responses = self._responses(request, options, streamed=on_piece is not None)
            return read_answer(map(read_chunk, responses), call, model or self.model, on_piece)

    def _responses(self, request: Any, options: dict[str, Any], *, streamed: bool) -> Iterator[Any]:
        """What Google answers. Raises a ModelError for what the network and the SDK raise, and for nothing else."""
        try:
            if streamed:
                yield from self.client.stream_generate_content(request, **options)
            else:
                yield self.client.generate_content(request, **options)
        except MODELS_ERRORS as error:
            raise classify(error) from error

    def _request(self, turns: Sequence[Turn], model: str, system_parts: list[str]) -> Any:
        return protos.GenerateContentRequest(
            model=f"models/{model}",
            contents=[protos.Content(role=turn.role, parts=[protos.Part(text=turn.text)]) for turn in turns],
            system_instruction=protos.Content(parts=[protos.Part(text=part) for part in system_parts])
            if system_parts
            else None,
            generation_config=protos.GenerationConfig(max_output_tokens=self.max_output_tokens)
            if self.max_output_tokens
            else None,
        )


def read_chunk(response: Any) -> Chunk:
    """What a response tells. Its messages know no thinking tokens: they are what is left of the total."""
    feedback, usage = response.prompt_feedback, response.usage_metadata
    candidate = response.candidates[0] if response.candidates else protos.Candidate()
    prompt_tokens, output_tokens = usage.prompt_token_count, usage.candidates_token_count
    return Chunk(
        text="".join(part.text for part in candidate.content.parts),
        finish=candidate.finish_reason.name if candidate.finish_reason else "",
        blocked=feedback.block_reason.name if feedback.block_reason else "",
        model=response.model_version,
        usage=Usage(
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            thinking_tokens=max(0, usage.total_token_count - prompt_tokens - output_tokens),
            cached_tokens=usage.cached_content_token_count,
            total_tokens=usage.total_token_count,
        ),
    )


def classify(error: Exception) -> ModelError:
    """What one of MODELS_ERRORS means for the reply."""
    cause = error.args[0] if error.args else None  # requests says so of a stream that falls silent
    if isinstance(error, requests.Timeout) or isinstance(cause, urllib3.exceptions.ReadTimeoutError):
        return ModelTimeout(type(error).__name__)
    if isinstance(error, GoogleAPICallError):
        return error_for(int(error.code or 0), list(error.details), getattr(error.response, "headers", {}))
    return ModelUnavailable(type(error).__name__)
