"""The events of a reply, published as they happen: one Redis stream per reply, bounded and expiring.

An entry is a piece of text, a status or an end, each with the attempt it belongs to. PostgreSQL holds the truth: if an
entry is lost here, followers only hear of it later.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import redis

from app.chatrooms.models import Context, Status
from app.core.redis import redis_client

log = logging.getLogger(__name__)

STREAM_TTL_SECONDS = 900  # from the start of an attempt, which takes 600 s at most, or its end; later PostgreSQL serves
MAX_ENTRIES = 10_000  # more than the default GEMINI_MAX_OUTPUT_TOKENS, even if each token is a piece of its own
READ_AT_ONCE = 200
FROM_THE_START = "0"


@dataclass(frozen=True)
class Entry:
    """One entry of a reply's stream.

    piece: text that ends after `offset` characters of the attempt's text. status: a state that was reached; a final one
    ends the attempt. context: comes with the status at the beginning of an attempt.
    """

    attempt: int
    piece: str = ""
    offset: int = 0
    status: Status | None = None
    context: Context | None = None

    @property
    def is_end(self) -> bool:
        return self.status is not None and self.status.is_final


def stream_key(reply_id: UUID) -> str:
    return f"reply:{reply_id}:events"


def publish(reply_id: UUID, entry: Entry) -> str:
    """Append an entry. Returns its id; empty for a piece if there is no stream. Raises redis.RedisError."""
    fields: dict[Any, Any] = {"attempt": entry.attempt}
    fields |= {"piece": entry.piece, "offset": entry.offset} if entry.piece else {}
    fields |= {"status": entry.status.value} if entry.status else {}
    fields |= {"context": json.dumps(asdict(entry.context))} if entry.context else {}
    key, client = stream_key(reply_id), redis_client()
    if entry.piece:  # never creates a stream: one that was purged with its reply must not come back
        entry_id: Any = client.xadd(key, fields, maxlen=MAX_ENTRIES, approximate=True, nomkstream=True)
        return (entry_id or b"").decode()
    pipeline = client.pipeline(transaction=False)
    pipeline.xadd(key, fields, maxlen=MAX_ENTRIES, approximate=True)
    pipeline.expire(key, STREAM_TTL_SECONDS)
    return str(pipeline.execute()[0].decode())


def read(client: redis.Redis, reply_id: UUID, after: str, *, seconds: float) -> tuple[str, list[Entry]]:
    """Wait up to `seconds` for entries after the id `after`. Returns the last one's id, and the entries.

    client: a blocking one, which waits for MAX_BLOCK_SECONDS at most. Raises redis.RedisError.
    """
    block_ms = max(1, int(seconds * 1_000))  # 0 would mean for ever
    answer: Any = client.xread({stream_key(reply_id): after}, count=READ_AT_ONCE, block=block_ms)
    entries = answer[0][1] if answer else []
    return (entries[-1][0].decode() if entries else after), [parse(fields) for _, fields in entries]


def pieces_until(reply_id: UUID, last_id: str, attempt: int) -> str:
    """Return the text that an attempt had published when the entry `last_id` was made. Raises redis.RedisError."""
    entries: Any = redis_client().xrange(stream_key(reply_id), max=last_id)
    text = ""
    for entry in (parse(fields) for _, fields in entries):
        if entry.attempt == attempt and entry.offset - len(entry.piece) == len(text):
            text += entry.piece
    return text


def parse(fields: dict[bytes, bytes]) -> Entry:
    status, context = fields.get(b"status"), fields.get(b"context")
    return Entry(
        attempt=int(fields[b"attempt"]),
        piece=fields.get(b"piece", b"").decode(),
        offset=int(fields.get(b"offset", 0)),
        status=Status(status.decode()) if status else None,
        context=Context(**json.loads(context)) if context else None,
    )


def purge(messages: Iterable[UUID], *, unfinished_attempts: Mapping[UUID, int]) -> None:
    """Delete the streams of deleted messages. Raises redis.RedisError.

    unfinished_attempts: the attempt of each reply that had not ended. Its followers are made to look again.
    """
    pipeline = redis_client().pipeline(transaction=False)  # in a transaction nobody would see the entries
    for reply_id, attempt in unfinished_attempts.items():
        pipeline.xadd(stream_key(reply_id), {"attempt": attempt, "status": Status.CANCELED.value})
    pipeline.unlink(*map(stream_key, messages))
    pipeline.execute()  # runs all commands, even if a full Redis refuses the entries


class Publisher:
    """Publishes the pieces of one attempt. If Redis fails, the rest is not published, and the reply goes on.

    may_publish: called before the first piece, which cannot be taken back. If it says no, no piece is published.
    """

    def __init__(
        self, reply_id: UUID, attempt: int, context: Context | None, *, may_publish: Callable[[], bool] = lambda: True
    ) -> None:
        self.reply_id = reply_id
        self.attempt = attempt
        self.may_publish = may_publish
        self.offset = 0
        self.muted = False
        self._publish(Entry(attempt, status=Status.GENERATING, context=context))

    def pass_on(self, piece: str) -> None:
        if self.offset == 0 and not self.muted:
            self.muted = not self.may_publish()
        self.offset += len(piece)
        self._publish(Entry(self.attempt, piece=piece, offset=self.offset))

    def _publish(self, entry: Entry) -> None:
        if self.muted:
            return
        try:
            publish(self.reply_id, entry)
        except redis.RedisError:
            log.warning("Redis became unavailable during a streamed reply; followers get the rest when it ends")
            self.muted = True
