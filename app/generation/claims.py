"""What a worker holds while it generates a reply."""

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from app.streaming.events import Context


@dataclass(frozen=True)
class Claim:
    """The right to finish a reply, as long as nobody takes the lease over."""

    reply_id: UUID
    attempt: int
    chatroom_id: UUID
    position: int
    user_id: UUID
    prompt: str
    failures: int
    started_at: datetime
    claimed_at: datetime
    request_id: str | None
    traceparent: str | None
    streamed: bool
    superseded_before: int
    model: str | None  # the chatroom's own, as it was chosen
    instruction: str | None
    is_untitled: bool
    messages_sent: int | None = None  # the prompt and turns before it; None until Gemini is asked
    claimed_monotonic: float = field(default_factory=time.monotonic, compare=False)

    @property
    def context(self) -> Context | None:
        """The turns that Gemini is sent, and all other current ones up to the prompt; None until it is asked."""
        if self.messages_sent is None:
            return None
        return Context(self.messages_sent, self.position - self.superseded_before - self.messages_sent)

    def now(self) -> datetime:
        """The time by PostgreSQL's clock."""
        return self.claimed_at + timedelta(seconds=time.monotonic() - self.claimed_monotonic)
