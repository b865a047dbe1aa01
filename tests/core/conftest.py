"""A Valkey that a test may kill."""

from collections.abc import Iterator

import pytest

from sandbox.stack.servers import ValkeyServer


@pytest.fixture(scope="module")
def own_valkey() -> Iterator[ValkeyServer]:
    """The module's own Valkey."""
    with ValkeyServer(append_only=False) as server:
        yield server
