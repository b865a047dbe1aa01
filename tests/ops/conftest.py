"""People whose replies nobody generates."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask


@pytest.fixture
def waiting_user(
    app: Flask, user: Any, make_app: Callable[..., Flask], make_redis_url: Callable[[], str]
) -> Iterator[Any]:
    """A user of a service whose workers are gone: what is queued waits."""
    user.client = make_app(redis_url=make_redis_url()).test_client()
    yield user
    app.extensions["celery"].set_default()
