"""The interface to a model: what goes there and comes back, and the choice of a client.

Costs nothing to import; only the chosen client's SDK is imported, when a worker begins.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, Protocol

from app.integrations.bounded_calls import BoundedCall


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: Literal["user", "model"]
    text: str


class FinishReason(enum.StrEnum):
    """Why an answer ended where it does; public API."""

    STOP = "stop"
    MAX_TOKENS = "max_tokens"
    TIME_LIMIT = "time_limit"


@dataclass(frozen=True)
class Usage:
    """What an answer took, in the model's tokens. Thinking is billed as output and counted apart from it."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    cached_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True)
class Answer:
    """What a model replied. `model`: the one that answered, as it names itself."""

    text: str
    model: str
    finish_reason: FinishReason
    usage: Usage


class ModelClient(Protocol):
    """A client of a model; shared by the threads of a worker process."""

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
        """Ask for the next turn of a conversation, oldest first, ending with the user's.

        call: entered by the caller; bounds the attempt as a whole. read_seconds: how long nothing may come.
        headers: sent along.
        on_piece: asks for a streamed reply; called with each piece, which joined are the answer's text. One whose time
        is over is an answer as far as it came.
        model: another one than the client's own. instruction: its user's, which never stands above the client's own.
        Raises a ModelError, also after some pieces; any other error is a defect of ours, and not the model's doing.
        """


USERS_INSTRUCTION = (
    "The user asks for the following in this conversation. Follow it where it does not contradict what is said above:\n"
)


def instructions(own: str, users: str | None) -> list[str]:
    """The parts of a system instruction, the service's own first: what a user writes stands apart from it."""
    return [part for part in (own, users and USERS_INSTRUCTION + users) if part]


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


class OutputLimit(ModelError):
    """All that the model may write went into thinking; there is no text."""


CONNECTIONS = 256  # kept open to Google at most: as many as a worker has threads, and some
CLIENTS = {  # by what GEMINI_SDK says: module, class, and the file that installs the library
    "google-generativeai": ("app.integrations.gemini.generativeai", "Gemini", "requirements.txt"),
    "google-genai": ("app.integrations.gemini.genai", "GenAI", "requirements-genai.txt"),
}


class SdkMissing(Exception):
    """The chosen library is not installed; the message is a sentence for the operator."""


def model_client_class(sdk: str) -> Callable[..., ModelClient]:
    """What makes a client on the library that GEMINI_SDK names. Raises SdkMissing."""
    module, name, requirements = CLIENTS[sdk]
    try:
        client: Callable[..., ModelClient] = getattr(import_module(module), name)
    except ImportError as error:
        raise SdkMissing(f"GEMINI_SDK is {sdk}, which is not installed ({error}): install {requirements}.") from error
    return client
