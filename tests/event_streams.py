"""Reading Server-Sent Events as a client does."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class SentEvent:
    """One event as it arrived."""

    name: str
    data: dict[str, Any]
    id: str | None = None


def events_of(chunks: Iterator[bytes]) -> Iterator[SentEvent]:
    """Yield the events in a response's chunks as they come, without the comments."""
    buffer = ""
    for chunk in chunks:
        buffer += chunk.decode()
        while "\n\n" in buffer:
            block, buffer = buffer.split("\n\n", 1)
            fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
            if fields:
                yield SentEvent(fields["event"], json.loads(fields["data"]), fields.get("id"))


def text_of(events: list[SentEvent], already: str = "") -> str:
    """Return the text that a client shows after these events."""
    text = already
    for event in events:
        if event.name == "reset":
            text = ""
        elif event.name == "delta":
            text += event.data["text"]
    return text


def follow(room, reply_id, last_event_id=None):
    """Open the stream. Returns an iterator over its events."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    response = room.person.get(f"{room.path}/messages/{reply_id}/stream", headers=headers)
    assert response.status_code == 200, response.text
    assert response.mimetype == "text/event-stream"
    assert (response.headers["Cache-Control"], response.headers["X-Accel-Buffering"]) == ("no-store", "no")
    return Stream(response)


class Stream:
    """The events of an open stream, as they come."""

    def __init__(self, response):
        self.response, self.events = response, events_of(response.response)

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self.events)
        except StopIteration:
            self.close()
            raise

    def close(self):
        self.response.close()


def names(events):
    return [event.name for event in events]
