"""Google's checks of a generateContent request, in Google's words.

Sources: https://ai.google.dev/api/generate-content (the request), https://ai.google.dev/api/caching#Content
(contents, parts, roles), https://ai.google.dev/gemini-api/docs/deprecations (models),
https://protobuf.dev/programming-guides/json (camelCase and snake_case alike; a repeated field may hold a single
object).

Consecutive turns of one role are accepted, as at Google. A conversation that ends with a model's turn is refused for
every model: Google's newer models refuse it, and a chat never needs it.
"""

import re
from dataclasses import dataclass
from typing import Any

from sandbox.gemini.errors import ApiError, model_not_found

SHUT_DOWN_PREFIXES = ("gemini-1.", "gemini-2.0-", "gemini-pro")
METHODS = ("generateContent", "streamGenerateContent")


def require_model(model: str, method: str) -> None:
    """Accept any Gemini model that Google has not shut down. Raises ApiError 404."""
    if model.startswith(SHUT_DOWN_PREFIXES):
        raise ApiError(404, f"This model models/{model} is no longer available. Please use a newer model.")
    if not model.startswith("gemini-") or method not in METHODS:
        raise model_not_found(model, method)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


REQUEST_FIELDS = _names(
    "model contents tools toolConfig safetySettings systemInstruction generationConfig cachedContent serviceTier store"
)
CONTENT_FIELDS = _names("parts role")
PART_DATA_FIELDS = _names("text inlineData functionCall functionResponse fileData executableCode codeExecutionResult")
PART_FIELDS = PART_DATA_FIELDS | _names("thought thoughtSignature videoMetadata partMetadata mediaResolution")
GENERATION_FIELDS = _names(
    "stopSequences responseMimeType responseSchema responseJsonSchema responseModalities candidateCount "
    "maxOutputTokens temperature topP topK seed presencePenalty frequencyPenalty responseLogprobs logprobs "
    "enableEnhancedCivicAnswers speechConfig thinkingConfig imageConfig mediaResolution"
)
ROLES = ("user", "model", "function")


@dataclass(frozen=True)
class Turn:
    """One content of the conversation; `text` joins its text parts."""

    role: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """A checked request. `contents` is as it was sent, with lists where Google allows a single object."""

    model: str
    turns: tuple[Turn, ...]
    contents: list[dict[str, Any]]
    system_parts: tuple[str, ...]
    generation_config: dict[str, Any]

    @property
    def system_instruction(self) -> str | None:
        """The parts of the system instruction as one text; None if there is none."""
        return "".join(self.system_parts) if self.system_parts else None

    @property
    def prompt(self) -> str:
        """The last turn's text."""
        return self.turns[-1].text

    @property
    def characters(self) -> int:
        """The length of everything that the model reads."""
        return sum(len(turn.text) for turn in self.turns) + len(self.system_instruction or "")


def read_conversation(model: str, body: Any) -> Conversation:
    """Check a request's JSON body and return it as a conversation. Raises ApiError."""
    request = _object(body, "", REQUEST_FIELDS)
    contents = _contents(request.get("contents"))
    system = request.get("systemInstruction")
    config = _object(request.get("generationConfig") or {}, "generation_config", GENERATION_FIELDS)
    turns = tuple(Turn(content.get("role") or "user", _text(content)) for content in contents)
    if turns[-1].role == "model":
        raise ApiError(
            400,
            "Requests ending with a model turn are not supported unless the last part is a function response.",
        )
    return Conversation(
        model=model,
        turns=turns,
        contents=contents,
        system_parts=() if system is None else _texts(_content(system, "system_instruction")),
        generation_config=config,
    )


def _contents(value: Any) -> list[dict[str, Any]]:
    listed = _list(value)
    if not listed:
        raise ApiError(400, "* GenerateContentRequest.contents: contents is not specified\n")
    contents = [_content(item, f"contents[{index}]") for index, item in enumerate(listed)]
    if any(content.get("role") and content["role"] not in ROLES for content in contents):
        raise ApiError(400, "Please use a valid role: user, model.")
    return contents


def _content(value: Any, path: str) -> dict[str, Any]:
    content = _object(value, path, CONTENT_FIELDS)
    listed = _list(content.get("parts"))
    if not listed:
        message = f"* GenerateContentRequest.{path}.parts: contents.parts must not be empty.\n"
        raise ApiError(400, message)
    content["parts"] = [_part(part, f"{path}.parts[{index}]") for index, part in enumerate(listed)]
    return content


def _part(value: Any, path: str) -> dict[str, Any]:
    part = _object(value, path, PART_FIELDS)
    if not any(part.get(field) for field in PART_DATA_FIELDS):
        raise ApiError(
            400,
            f"* GenerateContentRequest.{path}.data: required oneof field 'data' must have one initialized field\n",
        )
    return part


def _object(value: Any, path: str, known: frozenset[str]) -> dict[str, Any]:
    """Return the object with camelCase names. Raises ApiError, which names all unknown fields, as Google does."""
    if not isinstance(value, dict):
        raise ApiError(400, f"Invalid value at '{path}': an object is expected.")
    renamed = {_camel(name): item for name, item in value.items()}
    unknown = [name for name in value if _camel(name) not in known]
    if unknown:
        where = f" at '{path}'" if path else ""
        complaints = (f'Unknown name "{name}"{where}: Cannot find field.' for name in unknown)
        raise ApiError(400, "\n".join(f"Invalid JSON payload received. {complaint}" for complaint in complaints))
    return renamed


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _text(content: dict[str, Any]) -> str:
    return "".join(_texts(content))


def _texts(content: dict[str, Any]) -> tuple[str, ...]:
    return tuple(part.get("text") or "" for part in content["parts"])
