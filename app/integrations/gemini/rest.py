"""The session through which google-api-core speaks REST: its calls bounded, and what it does not expect taken away."""

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import requests

from app.integrations.bounded_calls import BoundedAdapter
from app.integrations.gemini.client import CONNECTIONS


def prepare(session: requests.Session) -> None:
    """Make the session's calls obey `BoundedCall`, and mend its responses."""
    adapter = BoundedAdapter(pool_connections=4, pool_maxsize=CONNECTIONS)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.hooks["response"] += [unwrap_error, read_as_it_comes]


def unwrap_error(response: requests.Response, **_: Any) -> None:
    """Take an error out of the array that streams have it in, where google-api-core does not look for it.

    One in no form of Google's is left out, so that its status decides: google-api-core would stumble over it.
    """
    if response.status_code < HTTPStatus.BAD_REQUEST:
        return
    try:
        body = response.json()
    except ValueError:
        return
    if isinstance(body, list) and body:
        body = body[0]
    is_googles = isinstance(body, dict) and isinstance(body.get("error"), dict)
    response._content = json.dumps(body if is_googles else {}).encode()


def read_as_it_comes(response: requests.Response, **_: Any) -> None:
    """Let a stream be read in the network's chunks; google-api-core would have it byte by byte, for twice the CPU."""
    iterate = response.iter_content

    def iter_content(chunk_size: int | None = None, decode_unicode: bool = False) -> Iterator[Any]:
        return iterate(chunk_size, decode_unicode)

    response.iter_content = iter_content  # type: ignore[method-assign]
