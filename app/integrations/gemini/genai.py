"""Google Gemini, through google-genai. Imported by the worker alone, and only when GEMINI_SDK chooses it.

What the library would do beyond one request is off: calling functions, asking for continuations.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

import httpx2
from google import genai
from google.genai import errors, types

from app.integrations.bounded_calls import BoundedCall
from app.integrations.bounded_httpx import bound
from app.integrations.gemini.answers import Chunk, ended_by, error_for, read_answer
from app.integrations.gemini.client import (
    CONNECTIONS,
    Answer,
    ModelError,
    ModelTimeout,
    ModelUnavailable,
    Turn,
    Usage,
    instructions,
)

KEEP_ALIVE_SECONDS = 60  # bridges a pause between prompts; httpx2 would begin anew with TLS after 5
LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=CONNECTIONS, keepalive_expiry=KEEP_ALIVE_SECONDS)
# What the network and the SDK raise; ValueErrors are those of an answer that cannot be read.
MODELS_ERRORS = (errors.APIError, httpx2.HTTPError, OSError, ValueError)


class GenAI:
    """A `ModelClient` on google-genai."""

    def __init__(
        self, *, api_key: str, endpoint: str, model: str, system_instruction: str, max_output_tokens: int = 0
    ) -> None:
        self.model = model
        self.max_output_tokens = max_output_tokens
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
        read_seconds: float,
        headers: Mapping[str, str] | None = None,
        on_piece: Callable[[str], None] | None = None,
        model: str | None = None,
        instruction: str | None = None,
    ) -> Answer:
        """See `ModelClient.generate`."""
        system_parts = instructions(self.system_instruction, instruction)
        request: Any = {
            "model": f"models/{model or self.model}",
            "contents": [types.Content(role=turn.role, parts=[types.Part(text=turn.text)]) for turn in turns],
            "config": types.GenerateContentConfig(
                system_instruction=types.Content(parts=[types.Part(text=part) for part in system_parts])
                if system_parts
                else None,
                max_output_tokens=self.max_output_tokens or None,
                automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
                automatic_continuation=False,
                http_options=types.HttpOptions(
                    timeout=max(1, round(read_seconds * 1000)),  # 0 would mean for ever
                    headers=dict(headers or {}),
                ),
            ),
        }
        with ended_by(call), closing(self._responses(request, streamed=on_piece is not None)) as responses:
            return read_answer(map(read_chunk, responses), call, model or self.model, on_piece)

    def _responses(self, request: Any, *, streamed: bool) -> Generator[types.GenerateContentResponse, None, None]:
        """What Google answers. Raises a ModelError for what the network and the SDK raise, and for nothing else."""
        try:
            if streamed:
                yield from self.client.models.generate_content_stream(**request)
            else:
                yield self.client.models.generate_content(**request)
        except MODELS_ERRORS as error:
            raise classify(error) from error


def read_chunk(response: types.GenerateContentResponse) -> Chunk:
    """What a response tells. Thoughts, code that was run and its results are no part of the text."""
    feedback, usage = response.prompt_feedback, response.usage_metadata
    candidate = response.candidates[0] if response.candidates else types.Candidate()
    parts = (candidate.content and candidate.content.parts) or []
    return Chunk(
        text="".join(part.text or "" for part in parts if not part.thought),
        finish=candidate.finish_reason.name if candidate.finish_reason else "",
        blocked=feedback.block_reason.name if feedback and feedback.block_reason else "",
        model=response.model_version or "",
        usage=Usage(
            prompt_tokens=usage.prompt_token_count or 0,
            output_tokens=usage.candidates_token_count or 0,
            thinking_tokens=usage.thoughts_token_count or 0,
            cached_tokens=usage.cached_content_token_count or 0,
            total_tokens=usage.total_token_count or 0,
        )
        if usage
        else Usage(),
    )


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
