"""The whole application on databases of a bench's own, without a process around it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask
from flask_migrate import upgrade

from app.factory import create_app
from config import load_settings
from sandbox.stack.postgres import PostgresServer
from sandbox.stack.servers import ValkeyServer

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"


def make_app(database_url: str, redis_url: str, **others: Any) -> Flask:
    """An application with no limit that a load would meet, and the newest tables. others: settings beside its own.

    Another one migrates, since no web process does: alembic leaves connections that send a SET more.
    """
    urls = {"database_url": database_url, "redis_url": redis_url}
    limits = {"rate_limit_per_minute": 0, "basic_daily_prompts": 100_000}
    own: dict[str, Any] = {"app_env": "development", "jwt_secret": "j" * 32, "log_level": "ERROR"} | limits | urls
    settings = load_settings(**own | others)
    with create_app(settings).app_context():
        upgrade(directory=str(MIGRATIONS))
    return create_app(settings)


@contextmanager
def application(**settings: Any) -> Iterator[Flask]:
    """As `make_app`, with PostgreSQL and Valkey for as long as the block lasts."""
    with PostgresServer(durable=False) as postgres, ValkeyServer(append_only=False) as valkey:
        yield make_app(postgres.url, valkey.url, **settings)
