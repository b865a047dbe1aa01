"""What goes to a model and comes back, whichever client carries it; costs nothing to import."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from app.integrations.bounded_calls import BoundedCall


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: Literal["user", "model"]
    text: str


@dataclass(frozen=True)
class Answer:
    """What a model replied, and what it took in tokens."""

    text: str
    model: str
    prompt_tokens: int
    output_tokens: int


class ModelClient(Protocol):
    """A client of a model; shared by the threads of a worker process."""

    def generate(
        self,
        turns: Sequence[Turn],
        call: BoundedCall,
        *,
        timeout_seconds: float,
        request_id: str | None = None,
        on_piece: Callable[[str], None] | None = None,
    ) -> Answer:
        """Ask for the next turn of a conversation, oldest first, ending with the user's.

        call: entered by the caller; bounds the attempt as a whole. timeout_seconds: for each read.
        request_id: goes along, for whoever looks for one request in two logs.
        on_piece: asks for a streamed reply; called with each piece, which joined are the answer's text.
        Raises a ModelError, also after some pieces; any other error is a defect of ours, and not the model's doing.
        """


class ModelError(Exception):
    """The model gave no answer. The message is for the log: never a client's, never the conversation's text."""


class ModelUnavailable(ModelError):
    """It may work when tried again; `retry_after`: seconds that the provider asks for, if it does."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelTimeout(ModelUnavailable):
    """The attempt took longer than it may."""


class CallAborted(ModelError):
    """Another thread ended the call."""


class ModelRejected(ModelError):
    """The provider refuses the request, the key or the model, and would again."""


class ReplyBlocked(ModelError):
    """Safety rules stopped the prompt or the answer."""


class ReplyEmpty(ModelError):
    """The answer has no text."""
