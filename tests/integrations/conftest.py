"""Both clients of the model, and ways to ask them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.integrations.bounded_calls import BoundedCall
from app.integrations.gemini.client import CLIENTS, Answer, ModelClient, ModelError, Turn, model_client_class
from sandbox.stand_ins import GeminiStandIn


@dataclass
class Outcome:
    """The result of asking a model."""

    answer: Answer | None
    error: ModelError | None
    seconds: float
    pieces: list[str] = field(default_factory=list)


class Asker:
    """A client, asked with one prompt or a conversation, whole or streamed."""

    def __init__(self, client: ModelClient) -> None:
        self.client = client

    def ask(
        self,
        *turns: str | Turn,
        streamed: bool = False,
        seconds: float = 10,
        call: BoundedCall | None = None,
        on_piece: Callable[[str], Any] = lambda _: None,
        headers: dict[str, str] | None = None,
        **chosen: str,
    ) -> Outcome:
        pieces: list[str] = []

        def collect(piece: str) -> None:
            pieces.append(piece)
            on_piece(piece)

        begun = time.monotonic()
        answer = error = None
        try:
            with call or BoundedCall(seconds) as bounded:
                answer = self.client.generate(
                    [turn if isinstance(turn, Turn) else Turn("user", turn) for turn in turns],
                    bounded,
                    read_seconds=seconds,
                    headers=headers,
                    on_piece=collect if streamed else None,
                    **chosen,
                )
        except ModelError as raised:
            error = raised
        return Outcome(answer, error, time.monotonic() - begun, pieces)


@pytest.fixture(params=sorted(CLIENTS))
def sdk(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def close(client: Any) -> None:
    """Close the connections that a client keeps. The worker's last as long as the worker."""
    below = vars(client.client)
    session = below["_api_client"]._httpx_client if "_api_client" in below else client.client.transport
    session.close()


def make_client(sdk: str, gemini: GeminiStandIn, **overrides: Any) -> ModelClient:
    arguments = {
        "api_key": gemini.api_key,
        "endpoint": gemini.url,
        "model": "gemini-3.5-flash",
        "system_instruction": "Be brief.",
    }
    return model_client_class(sdk)(**arguments | overrides)


@pytest.fixture
def make_asker(sdk: str, gemini: GeminiStandIn) -> Iterator[Callable[..., Asker]]:
    """Make clients for one test, with no connection yet."""
    made = []

    def make(**overrides: Any) -> Asker:
        made.append(make_client(sdk, gemini, **overrides))
        return Asker(made[-1])

    yield make
    for client in made:
        close(client)


@pytest.fixture(scope="module")
def shared_clients(gemini_process: GeminiStandIn) -> Iterator[dict[str, ModelClient]]:
    """One client of each SDK: making google-genai's takes a tenth of a second of CPU."""
    clients = {sdk: make_client(sdk, gemini_process) for sdk in CLIENTS}
    yield clients
    for client in clients.values():
        close(client)


@pytest.fixture
def model(sdk: str, shared_clients: dict[str, ModelClient], gemini: GeminiStandIn) -> Asker:
    """A client of one of the two SDKs, talking to the stand-in."""
    return Asker(shared_clients[sdk])
