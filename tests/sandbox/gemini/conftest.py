"""One stand-in for all tests here; those that steer every request take `quiet_gemini`, which puts it back."""

import pytest
import requests
from google.ai import generativelanguage

from sandbox.stand_ins import running_gemini_stand_in

MODEL = "gemini-3.5-flash"


@pytest.fixture(scope="session")
def gemini():
    with running_gemini_stand_in() as stand_in:
        yield stand_in


@pytest.fixture
def quiet_gemini(gemini):
    gemini.reset()
    gemini.wait_for(in_flight_at_most=0)
    gemini.clear_requests()
    yield gemini
    gemini.reset()


@pytest.fixture(scope="session")
def client(gemini):
    options = {"api_endpoint": gemini.url, "api_key": gemini.api_key}
    return generativelanguage.GenerativeServiceClient(transport="rest", client_options=options)


@pytest.fixture(scope="session")
def request_for():
    """Build an SDK request from a prompt, or from (role, text) pairs."""

    def build(*turns, model=MODEL, system=None, **config):
        pairs = [turn if isinstance(turn, tuple) else ("user", turn) for turn in turns]
        contents = [{"role": role, "parts": [{"text": text}]} for role, text in pairs]
        instruction = {"parts": [{"text": system}]} if system else None
        return generativelanguage.GenerateContentRequest(
            model=f"models/{model}",
            contents=contents,
            system_instruction=instruction,
            generation_config=config or None,
        )

    return build


@pytest.fixture
def ask(client, request_for):
    """Ask through the SDK, without its retries."""

    def call(*turns, timeout=5, **options):
        return client.generate_content(request_for(*turns, **options), timeout=timeout, retry=None)

    return call


@pytest.fixture
def stream(client, request_for):
    """Ask for a stream through the SDK; returns its pieces' texts, as they come."""

    def call(*turns, timeout=5, **options):
        pieces = client.stream_generate_content(request_for(*turns, **options), timeout=timeout, retry=None)
        return (part.text for piece in pieces for part in piece.candidates[0].content.parts)

    return call


@pytest.fixture
def post(gemini):
    """Post raw JSON, as curl would."""

    def call(body, method="generateContent", *, model=MODEL, key="sandbox-key", query=None, timeout=5):
        headers = {"x-goog-api-key": key} if key else {}
        options = {"data": body} if isinstance(body, bytes) else {"json": body}
        url = f"{gemini.url}/v1beta/models/{model}:{method}"
        return requests.post(url, headers=headers, params=query, timeout=timeout, **options)

    return call


@pytest.fixture
def prompt():
    """Build the smallest body that asks this."""

    def build(text):
        return {"contents": [{"role": "user", "parts": [{"text": text}]}]}

    return build
