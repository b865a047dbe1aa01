"""Sending an answer, or failing to in the way that was asked for."""

from collections.abc import Iterator
from dataclasses import dataclass

from flask import Response

from sandbox.gemini.behaviour import LONGEST_HANG_SECONDS, Behaviour, Line
from sandbox.gemini.errors import asked_for, to_json, with_numbers_for_enums
from sandbox.gemini.replies import Answer, Json

JSON_TYPE = "application/json; charset=UTF-8"
SSE_TYPE = "text/event-stream"
GARBAGE = "<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please log in.</body></html>\n"


@dataclass(frozen=True)
class Format:
    """How the client wants its answer: streamed or whole, JSON or server-sent events, enums as numbers."""

    streamed: bool = False
    sse: bool = False
    enum_numbers: bool = False

    @property
    def errors_in_array(self) -> bool:
        """A stream of JSON is an array from its first byte, errors included."""
        return self.streamed and not self.sse

    @property
    def content_type(self) -> str:
        """The media type of a good answer."""
        return SSE_TYPE if self.sse else JSON_TYPE

    def encode(self, value: Json) -> str:
        """Return one response object as JSON text."""
        return to_json(with_numbers_for_enums(value) if self.enum_numbers else value)


def serve(answer: Answer, behaviour: Behaviour, wanted: Format, line: Line) -> Response:
    """Answer as the behaviour says. Raises ApiError for a status that was asked for."""
    if not line.pause(behaviour.delay) or (behaviour.hang and not line.hang()) or behaviour.drop:
        return line.cut()
    if behaviour.status is not None:
        raise asked_for(
            behaviour.status,
            model=answer.conversation.model,
            retry_after_seconds=behaviour.retry_after,
        )
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
    """Yield the pieces as they would be written, `pace` seconds apart."""
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
            yield f",\r\n{text}" if number else f"[{text}"
    if not wanted.sse:
        yield "]"


def _trickle(answer: Answer, seconds_a_byte: float, wanted: Format, line: Line) -> Iterator[str]:
    """Yield a valid body whose blanks take ten minutes to come."""
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
