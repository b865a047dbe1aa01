"""The answers: a text that shows what the request held, Google's JSON around it, and sending it or failing as asked.

Source of the shapes: https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

from flask import Response

from sandbox.gemini.behaviour import LONGEST_HANG_SECONDS, Behaviour, Line, without_directives
from sandbox.gemini.errors import asked_for, quota_spent, to_json, with_numbers_for_enums
from sandbox.gemini.requests import Conversation

# "For Gemini models, a token is equivalent to about 4 characters": https://ai.google.dev/gemini-api/docs/tokens
CHARACTERS_A_TOKEN = 4
EXCERPT_CHARACTERS = 80
FILLER = "The stand-in goes on for as many words as it was asked for, one after the other, so that"
JSON_TYPE = "application/json; charset=UTF-8"
SSE_TYPE = "text/event-stream"
CODE = {"executableCode": {"language": "PYTHON", "code": "print(6 * 7)"}}
RESULT = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "42"}}
# Gemma 4 sends its thoughts even if they were not asked for: https://github.com/google-gemini/cookbook/issues/1198
THOUGHT = {"text": "The user wants an answer. ", "thought": True}
SOURCE = "https://example.com/source"
NAMES_A_CONVERSATION, WORDS_OF_A_NAME = "Name the conversation", 5  # begins the product's request for a title
GARBAGE = "<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please log in.</body></html>\n"

Json = dict[str, Any]


def tokens(characters: int) -> int:
    """Return how many tokens a text of this length has."""
    return -(-characters // CHARACTERS_A_TOKEN)


@dataclass(frozen=True)
class Answer:
    """The answer to a request. `text` is None if the model gives none."""

    conversation: Conversation
    text: str | None
    finish: str = "STOP"
    block: str | None = None
    behaviour: Behaviour = field(default_factory=Behaviour)

    def whole(self) -> Json:
        """Return the response to generateContent."""
        return self._response(self.text, written=self.text or "", finish=self.finish)

    def pieces(self) -> Iterator[Json]:
        """Yield the responses of a stream, one word each. The last one says why the stream ended."""
        words = re.findall(r"\s*\S+|\s+", self.text or "")
        blocked_at, written = self.behaviour.block_after, ""
        for number, word in enumerate(words, start=1):
            if blocked_at is not None and number > blocked_at:
                yield self._response(None, written=written, finish="SAFETY")
                return
            written += word
            is_last = number == len(words) and not self.behaviour.empty_end
            yield self._response(word, written=written, finish=self.finish if is_last else None)
        if not words:
            yield self.whole()
        elif self.behaviour.empty_end:
            yield self._response(None, written=written, finish=self.finish)

    def _response(self, text: str | None, *, written: str, finish: str | None) -> Json:
        response: Json = {}
        if self.block:
            response["promptFeedback"] = {"blockReason": self.block, "safetyRatings": [_danger()]}
        else:
            response["candidates"] = [self._candidate(text, finish)]
        response["usageMetadata"] = self._usage(written)
        response["modelVersion"] = self.behaviour.model_version or self.conversation.model
        response["responseId"] = self._id()
        if self.behaviour.unknown_fields:
            response["fieldOfTomorrow"] = {"nested": [1, {"deep": True}]}
            response["usageMetadata"]["dreamTokenCount"] = 7
        return response

    def _candidate(self, text: str | None, finish: str | None) -> Json:
        candidate: Json = {"content": {"role": "model"}, "index": 0}
        if text:
            candidate["content"] = {"parts": [{"text": text}], "role": "model"}
        if text and self.behaviour.extras:
            candidate["content"]["parts"] = [THOUGHT, CODE, *candidate["content"]["parts"], RESULT]
            candidate["citationMetadata"] = {"citationSources": [{"startIndex": 0, "endIndex": 1, "uri": SOURCE}]}
        if finish:
            candidate["finishReason"] = finish
        if finish == "SAFETY":
            candidate["safetyRatings"] = [_danger()]
        if self.behaviour.unknown_fields:
            candidate["moodOfTheModel"] = "SUNNY"
            candidate["content"]["fieldOfTomorrow"] = None
        return candidate

    def _usage(self, written: str) -> Json:
        prompt_tokens, output_tokens = tokens(self.conversation.characters), tokens(len(written))
        thinking_tokens, cached_tokens = self.behaviour.thinking_tokens, self.behaviour.cached_tokens
        total = prompt_tokens + output_tokens + thinking_tokens
        usage = {"promptTokenCount": prompt_tokens, "totalTokenCount": total}
        counts = ("candidates", output_tokens), ("thoughts", thinking_tokens), ("cachedContent", cached_tokens)
        return usage | {f"{name}TokenCount": count for name, count in counts if count}

    def _id(self) -> str:
        """Return an id that, like the text, is always the same for the same request."""
        seen = repr((self.conversation.turns, self.conversation.system_instruction, self.text))
        return hashlib.sha256(seen.encode()).hexdigest()[:22]


def compose(conversation: Conversation, behaviour: Behaviour) -> Answer:
    """Decide what to answer, within the request's maxOutputTokens."""
    if behaviour.block:
        return Answer(conversation, None, block=behaviour.block, behaviour=behaviour)
    if behaviour.empty or (behaviour.finish not in (None, "STOP") and behaviour.say is None):
        return Answer(conversation, None, finish=behaviour.finish or "STOP", behaviour=behaviour)
    text, finish = _text(conversation, behaviour), behaviour.finish or "STOP"
    limit = conversation.generation_config.get("maxOutputTokens")
    if limit and tokens(len(text)) + behaviour.thinking_tokens > limit:  # thinking counts against it
        left = max(0, limit - behaviour.thinking_tokens)
        text, finish = text[: left * CHARACTERS_A_TOKEN], "MAX_TOKENS"
    return Answer(conversation, text, finish=finish, behaviour=behaviour)


def _text(conversation: Conversation, behaviour: Behaviour) -> str:
    if behaviour.say is not None:
        return behaviour.say
    if (conversation.system_instruction or "").startswith(NAMES_A_CONVERSATION):
        prompt = without_directives(conversation.prompt).removeprefix("User: ").partition(" Assistant: ")[0]
        return " ".join(prompt.split()[:WORDS_OF_A_NAME])
    text = " ".join(_sentences(conversation))
    if behaviour.words is None:
        return text
    words = text.split()[: behaviour.words]
    return " ".join([*words, *islice(cycle(FILLER.split()), behaviour.words - len(words))])


def _sentences(conversation: Conversation) -> Iterator[str]:
    turns = conversation.turns
    prompts = [turn.text for turn in turns if turn.role == "user"]
    answers = [turn.text for turn in turns if turn.role == "model"]
    yield f"[sandbox] This is the stand-in for {conversation.model}, not Google's model."
    yield f"I see {_count(len(turns), 'turn')} in this conversation, {len(prompts)} of them from you."
    yield f"You have just written {_excerpt(prompts[-1])}."
    if len(prompts) > 1:
        yield f"Before that you wrote {_excerpt(prompts[-2])}."
    if len(prompts) > 2:
        yield f"It all began with {_excerpt(prompts[0])}."
    if answers:
        yield f"My last answer began with {_excerpt(answers[-1])}."
    if conversation.system_instruction is None:
        yield "There was no system instruction."
    else:
        yield f"A system instruction of {len(conversation.system_instruction)} characters came with it."
    yield "With a real key, an answer to your question would be here."


def _excerpt(text: str) -> str:
    plain = without_directives(text) or "a directive for the sandbox"
    shown = plain if len(plain) <= EXCERPT_CHARACTERS else plain[:EXCERPT_CHARACTERS].rstrip() + "…"
    return f"“{shown}”"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _danger() -> Json:
    return {"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH"}


@dataclass(frozen=True)
class Format:
    """How the client wants its answer: streamed or whole, JSON or server-sent events, enums as names or numbers."""

    streamed: bool = False
    sse: bool = False
    enum_numbers: bool = False

    @property
    def errors_in_array(self) -> bool:
        """Whether an error is in an array too: a stream of JSON is one from its first byte."""
        return self.streamed and not self.sse

    @property
    def content_type(self) -> str:
        """The media type of a good answer."""
        return SSE_TYPE if self.sse else JSON_TYPE

    def encode(self, value: Json) -> str:
        """Return one response object as JSON text."""
        return to_json(with_numbers_for_enums(value) if self.enum_numbers else value)


def serve(answer: Answer, behaviour: Behaviour, wanted: Format, line: Line) -> Response:
    """Answer as the behaviour says. Raises ApiError for a status or quota that was asked for."""
    silent_seconds = behaviour.delay + (0 if wanted.streamed else behaviour.think)
    if not line.pause(silent_seconds) or (behaviour.hang and not line.hang()) or behaviour.drop:
        return line.cut()
    if behaviour.quota is not None:
        raise quota_spent(behaviour.quota, model=answer.conversation.model)
    if behaviour.status is not None:
        model, seconds = answer.conversation.model, behaviour.retry_after
        raise asked_for(behaviour.status, model=model, retry_after_seconds=seconds)
    if behaviour.garbage:
        return Response(GARBAGE, mimetype="text/html")
    if behaviour.trickle is not None:
        return Response(_trickle(answer, behaviour.trickle, wanted, line), content_type=wanted.content_type)
    if wanted.streamed:
        return Response(_stream(answer, behaviour, wanted, line), content_type=wanted.content_type)
    body = wanted.encode(answer.whole())
    if behaviour.drop_after is not None:
        return Response(_half(body, line), content_type=JSON_TYPE)
    return Response(body, content_type=JSON_TYPE)


def _stream(answer: Answer, behaviour: Behaviour, wanted: Format, line: Line) -> Iterator[str]:
    """Yield the pieces as they would be written, `pace` seconds apart, once the thinking is over."""
    if not wanted.sse:
        yield "["
    if not line.pause(behaviour.think):  # in silence: Google's own SDK would take an SSE comment for an error
        line.cut()
        return
    for number, piece in enumerate(answer.pieces()):
        if number == behaviour.drop_after or (number == behaviour.hang_after and not line.hang()):
            line.cut()
            return
        if number and not line.pause(behaviour.pace):
            line.cut()
            return
        text = wanted.encode(piece)
        if wanted.sse:
            yield f"data: {text}\r\n\r\n"
        else:
            yield f",\r\n{text}" if number else text
    if not wanted.sse:
        yield "]"


def _trickle(answer: Answer, seconds_a_byte: float, wanted: Format, line: Line) -> Iterator[str]:
    """Yield a valid body, padded with blanks that take ten minutes to arrive."""
    whole = wanted.encode(answer.whole())
    opening, rest = {
        (True, True): (":", f"\r\ndata: {whole}\r\n\r\n"),
        (True, False): ("[", f"{whole}]"),
    }.get((wanted.streamed, wanted.sse), ("{", whole[1:]))
    yield opening
    for _ in range(int(LONGEST_HANG_SECONDS / max(seconds_a_byte, 0.001))):
        if not line.pause(max(seconds_a_byte, 0.001)):
            line.cut()
            return
        yield " "
    yield rest


def _half(body: str, line: Line) -> Iterator[str]:
    """Yield half of a body and break off."""
    yield body[: len(body) // 2]
    line.cut()
